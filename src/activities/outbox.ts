import { setTimeout as delay } from 'node:timers/promises';
import { activityInfo, cancellationSignal, heartbeat, log, metricMeter } from '@temporalio/activity';
import type { Client } from '@temporalio/client';
import { OutboxJournal } from '../database/outboxJournal.ts';
import { connect, disconnect } from '../database/postgres.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { type OutboxRelayReport, RELAY_REPORT_SIGNAL } from '../domain/outbox.ts';
import { countDeadLetters } from './deadLetters.ts';
import { onPostgres, toFailure } from './failure.ts';
import type { LingeringRelays, RunningRelay } from './lingeringRelays.ts';
import { type OutboxRelayDependencies, type OutboxRelayRun, relayOutboxShard } from './outboxRelay.ts';

export interface OutboxActivityDependencies extends OutboxRelayDependencies {
  /** For the reports of an activity to its own workflow. */
  temporal: Client;
  lingering: LingeringRelays;
  /** Sees to the delivery workflows of a shard's parked rows. */
  startDeliveries(shard: number): Promise<void>;
}

/** The SDK sends on only as many heartbeats as the server needs. */
const TICK_MS = 1_000;
/** A report is a signal, and signals are history: state changes in between are told by the next one. */
const REPORT_INTERVAL_MS = 10_000;

export function createOutboxActivities(dependencies: OutboxActivityDependencies) {
  const { lingering } = dependencies;
  return {
    /**
     * Relays one shard for up to `runSeconds`, or until it is cancelled or its worker stops; then the batch under way is
     * finished first. After its time the relay lingers until the shard's next run. Reports to its workflow by signal.
     * Outages are thrown, so that Temporal's retry policy does the waiting.
     */
    async relayOutbox({
      shard,
      runSeconds,
    }: {
      shard: number;
      runSeconds: number;
    }): Promise<OutboxRelayReport> {
      const reporter = new Reporter(dependencies.temporal);
      const deliveries = new DeliveryStarter(() => dependencies.startDeliveries(shard));
      const ticking = setInterval(() => {
        reporter.tick();
        if (reporter.latest.parked > 0) deliveries.tick();
      }, TICK_MS);
      const onProgress = (report: OutboxRelayReport) => {
        reporter.latest = report;
      };
      const meters = createMeters(shard);
      try {
        await lingering.end(shard);
        const relay = startRelay(dependencies, { shard, onProgress, ...meters });
        const cancelled = cancellationSignal();
        await Promise.race([relay.done, timeOver(runSeconds, cancelled)]);
        if (cancelled.aborted) await stopped(relay);
        else await lingering.leave(shard, relay);
        return reporter.latest;
      } catch (error) {
        await reporter.ended(error);
        throw toFailure(error);
      } finally {
        clearInterval(ticking);
      }
    },

    /**
     * Sees to it that no relay of the shard goes on: one that lingers in this process finishes its batch, one elsewhere
     * is fenced.
     */
    async endRelay(shard: number): Promise<void> {
      await lingering.end(shard);
      const { databaseUrl, deployment, owner } = dependencies;
      await onPostgres(async () => {
        const client = await connect(databaseUrl);
        await OutboxJournal.takeOver(client, shard, deployment, owner).finally(() => disconnect(client));
      });
    },
  };
}

export type OutboxActivities = ReturnType<typeof createOutboxActivities>;

function createMeters(shard: number) {
  const tags = { shard: String(shard) };
  const published = metricMeter.createCounter(
    'outbox_messages_published',
    undefined,
    'rows delivered to Kafka',
  );
  const failed = metricMeter.createCounter(
    'outbox_messages_failed',
    undefined,
    'attempts that Kafka refused',
  );
  const latency = metricMeter.createHistogram(
    'outbox_publish_latency_seconds',
    'float',
    undefined,
    'one Kafka transaction',
  );
  return {
    onPublished: (seconds: number) => latency.record(seconds, tags),
    onSettled: (rows: number) => published.add(rows, tags),
    onRejected: (rows: number, dead: number) => {
      failed.add(rows, tags);
      if (dead > 0) countDeadLetters(dead);
    },
  };
}

/** Beside the relay and never in its way: one call at a time, and whatever fails is tried again a second later. */
class DeliveryStarter {
  private readonly start: () => Promise<void>;
  private isBusy = false;

  constructor(start: () => Promise<void>) {
    this.start = start;
  }

  tick(): void {
    if (this.isBusy) return;
    this.isBusy = true;
    this.start()
      .catch((error: unknown) => log.debug('delivery workflows not started', { error: describeError(error) }))
      .finally(() => {
        this.isBusy = false;
      });
  }
}

/** Tells the workflow what the relay does: within a second of news, but not more often than every ten seconds. */
class Reporter {
  latest: OutboxRelayReport = { state: 'idle', totals: null, parked: 0, lastError: null };
  /** Carried from attempt to attempt by the heartbeat, so that an outage is reported once and not at every retry. */
  private toldCode: string | null = activityInfo().heartbeatDetails ?? null;
  private readonly workflow;
  private telling = Promise.resolve(true);
  private told = '';
  private toldAt = 0;

  constructor(temporal: Client) {
    this.workflow = temporal.workflow.getHandle(activityInfo().workflowExecution!.workflowId);
  }

  tick(): void {
    // The relay works again: its next outage is news.
    if (this.latest.totals) this.toldCode = null;
    heartbeat(this.toldCode);
    if (Date.now() - this.toldAt >= REPORT_INTERVAL_MS && this.latest.totals) void this.tell();
  }

  /** An outage is told once for each kind of error: the hosts in its message may differ at every attempt. */
  async ended(error: unknown): Promise<void> {
    const code = error instanceof OrchestratorError ? error.code : 'unexpected';
    // A relay that was replaced leaves quietly: the shard's state is its successor's to tell.
    if (code === 'relay_fenced' || code === this.toldCode) return;
    this.latest = { ...this.latest, state: 'waiting', lastError: describeError(error) };
    if (await this.tell()) this.toldCode = code;
    heartbeat(this.toldCode);
  }

  /** A report that Temporal cannot take is dropped: the next one, or the activity's result, carries the same totals. */
  private tell(): Promise<boolean> {
    this.toldAt = Date.now();
    // One after the other, so that the last word is the latest.
    this.telling = this.telling.then(() => this.signalLatest());
    return this.telling;
  }

  private async signalLatest(): Promise<boolean> {
    const content = JSON.stringify(this.latest);
    if (content === this.told) return true;
    try {
      await this.workflow.signal(RELAY_REPORT_SIGNAL, this.latest);
      this.told = content;
      return true;
    } catch (error) {
      log.debug('report not delivered', { error: describeError(error) });
      return false;
    }
  }
}

function startRelay(
  dependencies: OutboxActivityDependencies,
  run: Omit<OutboxRelayRun, 'stop'>,
): RunningRelay {
  const controller = new AbortController();
  const done = relayOutboxShard(dependencies, { ...run, stop: controller.signal });
  return { done, stop: () => controller.abort() };
}

function stopped({ stop, done }: RunningRelay): Promise<void> {
  stop();
  return done;
}

/**
 * Resolves when the run is over or cancelled. Runs end at different moments: a worker with all the shards has no slot
 * left to poll with, so the next shard that comes free goes to the worker that has been waiting; if all came free at
 * once, all of them would.
 */
async function timeOver(runSeconds: number, cancelled: AbortSignal): Promise<void> {
  const ms = Math.round(runSeconds * 1000 * (0.75 + Math.random() / 4));
  await delay(ms, undefined, { signal: cancelled, ref: false }).catch(() => {});
}
