import { activityInfo, cancellationSignal, heartbeat, log, metricMeter } from '@temporalio/activity';
import type { Client } from '@temporalio/client';
import type pg from 'pg';
import { hurryMemories, readMemoryBacklog } from '../database/memoryBook.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { MEMORY_REPORT_SIGNAL, type MemoryCounts, type MemorySyncReport } from '../domain/memories.ts';
import { countDeadLetters } from './deadLetters.ts';
import { onPostgres, toFailure } from './failure.ts';
import { type MemorySyncDependencies, SomaBrainInsight, syncMemoriesUntil } from './memorySync.ts';

export interface MemoryActivityDependencies extends MemorySyncDependencies {
  /** For what is counted, beside the sync's own connection. */
  pool: pg.Pool;
  /** For the reports of an activity to its own workflow. */
  temporal: Client;
}

const TICK_MS = 1_000;
/** A report is a signal, and signals are history. */
const REPORT_INTERVAL_MS = 10_000;
/** An outage that begins or ends is told sooner, but not each time that SomaBrain flaps. */
const NEWS_INTERVAL_MS = 3_000;

export function createMemoryActivities(dependencies: MemoryActivityDependencies) {
  const insight = new SomaBrainInsight();
  return {
    /**
     * Brings queued memories to SomaBrain for up to `runSeconds`, or until it is cancelled or its worker stops. Outages of
     * SomaBrain are waited for in here, gently; those of Postgres are thrown, so that Temporal's retry policy waits.
     */
    async syncMemories({ runSeconds }: { runSeconds: number }): Promise<MemorySyncReport> {
      const reporter = new Reporter(dependencies);
      const stop = AbortSignal.any([cancellationSignal(), AbortSignal.timeout(runSeconds * 1000)]);
      const ticking = setInterval(() => reporter.tick(), TICK_MS);
      try {
        await syncMemoriesUntil(dependencies, {
          stop,
          insight,
          onState: (state, lastError) => reporter.became(state, lastError),
          ...createMeters(reporter),
        });
        return await reporter.last();
      } catch (error) {
        await reporter.ended(error);
        throw toFailure(error);
      } finally {
        clearInterval(ticking);
      }
    },
  };
}

export type MemoryActivities = ReturnType<typeof createMemoryActivities>;

/** The short one, for the queue of short activities. */
export function createMemoryHurryActivities({ pool }: { pool: pg.Pool }) {
  return {
    /** Asks the sync that runs, on whatever worker, to try SomaBrain now. */
    hurryMemories: (): Promise<void> => onPostgres(() => hurryMemories(pool)),
  };
}

export type MemoryHurryActivities = ReturnType<typeof createMemoryHurryActivities>;

function createMeters(reporter: Reporter) {
  const synced = metricMeter.createCounter('memory_synced', undefined, 'memories that SomaBrain has');
  const dead = metricMeter.createCounter('memory_dead', undefined, 'memories that became dead letters');
  return {
    onSynced: (memories: number) => {
      synced.add(memories);
      reporter.synced += memories;
    },
    onRejected: (_: number, died: number) => {
      if (died === 0) return;
      dead.add(died);
      countDeadLetters(died);
    },
  };
}

type State = MemorySyncReport['state'];

/** Tells the workflow what the sync does: soon when an outage begins or ends, else every ten seconds. */
class Reporter {
  /** Since the activity began. */
  synced = 0;
  private readonly pool: pg.Pool;
  private readonly workflow;
  private state: State = 'idle';
  private lastError: string | null = null;
  /** Carried from attempt to attempt by the heartbeat, so that an outage is told once and not at every retry. */
  private toldCode: string | null = activityInfo().heartbeatDetails ?? null;
  private told = '';
  private toldState: State | undefined;
  private toldAt = 0;
  private counted = { synced: 0, at: performance.now() };
  private telling: Promise<boolean> | undefined;

  constructor({ pool, temporal }: Pick<MemoryActivityDependencies, 'pool' | 'temporal'>) {
    this.pool = pool;
    this.workflow = temporal.workflow.getHandle(activityInfo().workflowExecution!.workflowId);
  }

  became(state: State, lastError: string | null): void {
    this.state = state;
    this.lastError = lastError;
    // The sync works again: the next outage of Postgres is news.
    this.toldCode = null;
  }

  tick(): void {
    heartbeat(this.toldCode);
    const isNews = (this.state === 'waiting') !== (this.toldState === 'waiting');
    const due = Date.now() - this.toldAt >= (isNews ? NEWS_INTERVAL_MS : REPORT_INTERVAL_MS);
    if (!due || this.telling) return;
    this.telling = this.tell().finally(() => {
      this.telling = undefined;
    });
  }

  async last(): Promise<MemorySyncReport> {
    await this.telling;
    return this.report();
  }

  async ended(error: unknown): Promise<void> {
    await this.telling;
    const code = error instanceof OrchestratorError ? error.code : 'unexpected';
    // A sync that was replaced leaves quietly: its successor tells.
    if (code === 'relay_fenced' || code === this.toldCode) return;
    const report = { state: 'waiting', counts: null, lastError: describeError(error) } as const;
    if (await this.signal(report)) this.toldCode = code;
    heartbeat(this.toldCode);
  }

  /** A report that Temporal cannot take is dropped: the next one tells the same. */
  private async tell(): Promise<boolean> {
    this.toldAt = Date.now();
    this.toldState = this.state;
    return this.signal(await this.report());
  }

  private async report(): Promise<MemorySyncReport> {
    const { state, lastError } = this;
    return { state, counts: await this.count().catch(() => null), lastError };
  }

  private async count(): Promise<MemoryCounts> {
    const { pending, oldestSeconds, totals, tenants } = await readMemoryBacklog(this.pool);
    const now = performance.now();
    const rate = ((this.synced - this.counted.synced) * 1000) / Math.max(1, now - this.counted.at);
    this.counted = { synced: this.synced, at: now };
    return {
      pending,
      oldest_seconds: Math.round(oldestSeconds),
      synced_total: totals.synced,
      dead_total: totals.dead,
      synced_per_second: Math.round(rate * 10) / 10,
      tenants,
    };
  }

  private async signal(report: MemorySyncReport): Promise<boolean> {
    const content = JSON.stringify(report);
    if (content === this.told) return true;
    try {
      await this.workflow.signal(MEMORY_REPORT_SIGNAL, report);
      this.told = content;
      return true;
    } catch (error) {
      log.debug('report not delivered', { error: describeError(error) });
      return false;
    }
  }
}
