import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Deployment } from '../database/deployment.ts';
import { type Claim, type OpenBatch, OutboxJournal } from '../database/outboxJournal.ts';
import type { OutboxWakeUps } from '../database/outboxWakeUps.ts';
import { connect, disconnect, fromPostgres } from '../database/postgres.ts';
import { OrchestratorError } from '../domain/errors.ts';
import {
  composeBatch,
  describeRejection,
  judgeRetries,
  MAX_BATCH_ROWS,
  type OutboxRelayReport,
  type RejectedRow,
  type Rejection,
} from '../domain/outbox.ts';
import { decideTakeover, FIRST_MARK, type Mark, type OutboxTotals } from '../domain/outboxTakeover.ts';
import { isTopicLevel, type OutboxTopics } from '../domain/outboxTopics.ts';
import { BatchRejectedError } from '../kafka/errors.ts';
import type { OutboxPublisher } from '../kafka/outboxPublisher.ts';
import { passKafkaGate } from './kafkaGate.ts';

/** What a relay needs of the world. */
export interface OutboxRelayDependencies {
  databaseUrl: string;
  deployment: Deployment;
  openPublisher(shard: number): OutboxPublisher;
  /** Fails unless Kafka answers; costs a connection and a request. */
  tryKafka(): Promise<void>;
  /** What the relays of this process have learned of topics; it outlives their runs. */
  topics: OutboxTopics;
  wakeUps: OutboxWakeUps;
  /** Who owns the shard, for people who look at the journal. */
  owner: string;
  logger: Logger;
}

export interface OutboxRelayRun {
  shard: number;
  /** Aborted when the run is over: the batch under way is finished and settled, and no other is opened. */
  stop: AbortSignal;
  onProgress(report: OutboxRelayReport): void;
  /** A batch is in Kafka; how long its transaction took. */
  onPublished(seconds: number): void;
  /** Its rows are marked. */
  onSettled(rows: number): void;
  /** Rows that were parked, and how many of them had no attempt left and are dead letters now. */
  onRejected(rows: number, dead: number): void;
}

/** A shard that ran dry is polled this often at first: rows that come in a stream are found without being announced. */
const BUSY_POLL_MS = 5;
const BUSY_POLLS = 40;
/** After that the relay asks to be woken, and polls ever more rarely in case nobody does. */
const MAX_POLL_MS = 1_000;
const RETRY_DUE_INTERVAL_MS = 1_000;
/** A portion of retries has so many times its own duration to wait for: what comes of it, letters above all, takes more. */
const RETRY_PAUSES = 20;
const RENEW_MARK_AFTER_MS = 24 * 3_600_000;

/**
 * Relays one shard until `stop`: exactly once for read_committed consumers, in order for each key.
 *
 *   take over: fence in Postgres ─▶ fence in Kafka, read the mark ─▶ read the journal ─▶ decide
 *                                          ▲                                                 │
 *                     rejected: a new      │                                                 ▼
 *                     publisher, narrower  └──────── send n ◀── open n ──────── settle, resend or proceed
 *                     batches                          │          ▲
 *                                                      └──────────┘ settle n and open n+1 in one commit
 *
 * Any error ends the run with all of its connections; the next run's takeover finds out what became of the open batch.
 * @throws OrchestratorError kafka_unavailable, postgres_unavailable, relay_fenced, shard_stopped, unknown_shard,
 *   deployment_changed
 */
export async function relayOutboxShard(
  dependencies: OutboxRelayDependencies,
  run: OutboxRelayRun,
): Promise<void> {
  const client = await connect(dependencies.databaseUrl);
  try {
    await passKafkaGate(client, dependencies.tryKafka);
    const journal = await OutboxJournal.takeOver(
      client,
      run.shard,
      dependencies.deployment,
      dependencies.owner,
    );
    const relay = new OutboxRelay(journal, dependencies, run);
    while (!run.stop.aborted) await relay.deliverWithFreshPublisher();
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    await disconnect(client);
  }
}

class OutboxRelay {
  private readonly journal: OutboxJournal;
  private readonly dependencies: OutboxRelayDependencies;
  private readonly run: OutboxRelayRun;
  private limit = MAX_BATCH_ROWS;
  private totals: OutboxTotals = { delivered: 0, batches: 0 };
  private parked = 0;
  private retryDueAt = 0;
  /** Why Kafka refused the batch that is open, until it is known which record is at fault. */
  private rejected: BatchRejectedError | undefined;
  /** What was known of topics when the batch was composed. */
  private topicsVersion = 0;

  constructor(journal: OutboxJournal, dependencies: OutboxRelayDependencies, run: OutboxRelayRun) {
    this.journal = journal;
    this.dependencies = dependencies;
    this.run = run;
    const { topics } = dependencies;
    journal.compose = (rows) => {
      this.topicsVersion = topics.version;
      return composeBatch(rows, topics, Date.now());
    };
  }

  /** Delivers until `stop`, or until Kafka rejects a batch, after which a publisher is not to be used again. */
  async deliverWithFreshPublisher(): Promise<void> {
    const publisher = this.dependencies.openPublisher(this.run.shard);
    try {
      await this.deliver(publisher, await this.recover(publisher));
    } catch (error) {
      if (!(error instanceof BatchRejectedError)) throw error;
      this.rejected = error;
    } finally {
      await publisher.close();
    }
  }

  /** Brings Kafka and the journal to one state, and returns the batch that has to be sent again, if there is one. */
  private async recover(publisher: OutboxPublisher): Promise<OpenBatch | undefined> {
    const { rejected } = this;
    this.rejected = undefined;
    const mark = await publisher.initialise();
    const journal = await this.journal.read();
    this.totals = journal.totals;
    const decision = decideTakeover(journal, mark);
    this.dependencies.logger.debug({ shard: this.run.shard, decision, mark }, 'shard taken over');
    switch (decision.kind) {
      case 'stop':
        throw new OrchestratorError('shard_stopped', `shard ${this.run.shard}: ${decision.reason}`);
      case 'settle':
        this.count(await this.journal.settle(journal.open!));
        return undefined;
      case 'resend': {
        const batch = await this.journal.reload(journal.open!);
        return rejected ? this.narrow(batch, rejected) : batch;
      }
      case 'begin':
        await publisher.publish(FIRST_MARK, []);
        return undefined;
      case 'proceed':
        await this.keepMark(publisher, mark, journal.settledAt);
        return undefined;
    }
  }

  /**
   * Kafka rejects a batch as a whole. Its rows go back and come again: without the topic that is at fault, if Kafka
   * named it or one record stood alone; with suspected topics each on its own; or in batches of half the size, until
   * the record that is at fault stands alone and is parked. Nothing is sent twice: a rejected transaction was never
   * committed.
   */
  private async narrow({ records }: OpenBatch, { rejection, topic }: BatchRejectedError): Promise<undefined> {
    const { shard } = this.run;
    const { topics, logger } = this.dependencies;
    const [alone] = records.length === 1 ? records : [];
    const reason = describeRejection(rejection);
    logger.warn({ shard, rows: records.length, message: alone?.id, topic, reason }, 'batch rejected');
    if (isTopicLevel(rejection)) {
      const culprit = topic ?? alone?.topic;
      if (culprit === undefined) topics.suspect(new Set(records.map((record) => record.topic)));
      else topics.condemn(culprit, rejection, Date.now());
      await this.journal.abandon();
      return;
    }
    // With what was learned of the topics meanwhile, the next batch is another one.
    const outdated = topics.version !== this.topicsVersion;
    await this.park(rejection, outdated ? undefined : alone);
    if (!outdated) this.limit = Math.max(1, Math.floor(records.length / 2));
  }

  private async park(rejection: Rejection, culprit: OpenBatch['records'][number] | undefined): Promise<void> {
    const dead = await this.journal.abandon(culprit && { row: culprit, rejection });
    if (!culprit) return;
    this.run.onRejected(1, dead);
    this.parked += 1 - dead;
  }

  /** Kafka forgets an offset a week after its last commit, so a shard without traffic renews its mark. */
  private async keepMark(
    publisher: OutboxPublisher,
    mark: Mark | undefined,
    settledAt: Date | null,
  ): Promise<void> {
    if (mark && settledAt && Date.now() - settledAt.getTime() > RENEW_MARK_AFTER_MS)
      await publisher.publish(mark, []);
  }

  private async deliver(publisher: OutboxPublisher, resend: OpenBatch | undefined): Promise<void> {
    let batch = resend;
    while (batch || !this.run.stop.aborted) {
      await this.retryDue();
      if (!batch) {
        batch = await this.nextBatch();
        continue;
      }
      batch = (await this.publish(publisher, batch)) ? await this.settle(batch) : undefined;
    }
  }

  /** False if the batch was refused before anything of it was sent; its rows are claimed anew. */
  private async publish(publisher: OutboxPublisher, batch: OpenBatch): Promise<boolean> {
    this.report('delivering');
    const started = performance.now();
    try {
      await publisher.publish(batch, batch.records);
    } catch (error) {
      if (!(error instanceof BatchRejectedError) || error.topic === undefined) throw error;
      await this.narrow(batch, error);
      return false;
    }
    this.run.onPublished((performance.now() - started) / 1000);
    this.dependencies.topics.prove(new Set(batch.records.map(({ topic }) => topic)));
    this.limit = Math.min(MAX_BATCH_ROWS, this.limit * 2);
    return true;
  }

  private async settle({ number, batchId, records }: OpenBatch): Promise<OpenBatch | undefined> {
    const settled = { number, batchId, seqs: records.map(({ seq }) => seq) };
    if (this.run.stop.aborted) {
      this.count(await this.journal.settle(settled));
      return undefined;
    }
    const { marked, claim } = await this.journal.settleAndOpen(settled, this.limit);
    this.count(marked);
    return this.accept(claim);
  }

  /** Waits for rows until there are some, or until the run is over. */
  private async nextBatch(): Promise<OpenBatch | undefined> {
    for (let polls = 0; !this.run.stop.aborted; polls += 1) {
      const claim = await this.journal.open(this.totals.batches, this.limit);
      if (claim.batch || claim.rejected.length > 0) return this.accept(claim);
      if (polls < BUSY_POLLS) await delay(BUSY_POLL_MS);
      else return this.waitForRows();
    }
    return undefined;
  }

  /** The shard has run dry: from here until rows are seen, writers wake the relay. */
  private async waitForRows(): Promise<OpenBatch | undefined> {
    await this.journal.setWaiting(true);
    let claim: Claim | undefined;
    for (
      let pause = BUSY_POLL_MS;
      !claim && !this.run.stop.aborted;
      pause = Math.min(MAX_POLL_MS, pause * 2)
    ) {
      await this.retryDue();
      // Each time: people discard parked rows meanwhile, and others park some.
      this.report('idle');
      const found = await this.journal.open(this.totals.batches, this.limit);
      if (found.batch || found.rejected.length > 0) claim = found;
      else await this.dependencies.wakeUps.wait(Math.min(pause, this.msToRetries), this.run.stop);
    }
    await this.journal.setWaiting(false);
    return claim && this.accept(claim);
  }

  private accept({ batch, rejected, dead }: Claim): OpenBatch | undefined {
    this.tellRejected(rejected, dead);
    this.parked += rejected.length - dead;
    return batch;
  }

  /** One line a batch: a flood of bad messages must not become a flood of lines. Each row has its own last_error. */
  private tellRejected(rejected: RejectedRow[], dead: number): void {
    const [first] = rejected;
    if (!first) return;
    this.run.onRejected(rejected.length, dead);
    const { row, rejection } = first;
    const example = { id: row.id, topic: row.topic, reason: describeRejection(rejection) };
    const { shard } = this.run;
    this.dependencies.logger.warn({ shard, rows: rejected.length, dead, example }, 'messages parked');
  }

  private get msToRetries(): number {
    return Math.max(1, Math.ceil(this.retryDueAt - performance.now()));
  }

  /** A portion between two batches, each second, or sooner as long as there are more. */
  private async retryDue(): Promise<void> {
    const started = performance.now();
    if (started < this.retryDueAt) return;
    const { topics } = this.dependencies;
    const { refused, dead, more } = await this.journal.retryDue((rows) =>
      judgeRetries(rows, topics, Date.now()),
    );
    this.tellRejected(refused, dead);
    if (!more) this.parked = await this.journal.countParked();
    const now = performance.now();
    this.retryDueAt = now + (more ? RETRY_PAUSES * (now - started) : RETRY_DUE_INTERVAL_MS);
  }

  private count(rows: number): void {
    this.totals = { delivered: this.totals.delivered + rows, batches: this.totals.batches + 1 };
    this.run.onSettled(rows);
    this.report('delivering');
  }

  private report(state: OutboxRelayReport['state']): void {
    this.run.onProgress({ state, totals: this.totals, parked: this.parked, lastError: null });
  }
}
