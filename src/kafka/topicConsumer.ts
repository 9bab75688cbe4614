import './compression.ts';
import './readCommitted.ts';
import { setTimeout as delay } from 'node:timers/promises';
import type { Consumer, ConsumerEndBatchProcessEvent, EachBatchPayload, Kafka } from 'kafkajs';
import type { Logger } from 'pino';
import type { ConsumedRecord } from '../domain/consumedRecord.ts';
import { describeError } from '../domain/errors.ts';
import type { PartitionPlan } from '../domain/topics.ts';
import { fromKafka } from './errors.ts';
import { MAX_PORTION_BYTES, portionOf, toRecord } from './portions.ts';
import { ensureTopics } from './topics.ts';

export interface TopicConsumerOptions {
  kafka: Kafka;
  groupId: string;
  topic: string;
  /** How the topic is made where it is missing; where it may not be made, it is waited for. */
  partitions: PartitionPlan;
  /**
   * Gets up to MAX_RECORDS records of one partition, in their order, and resolves when all of them have a durable owner.
   * After a failure it gets half as many, down to one, so that a portion is not too much for it for ever.
   * May get records again, after whatever was killed: owners know them by their keys.
   */
  handle(records: ConsumedRecord[]): Promise<unknown>;
  logger: Logger;
}

/**
 *              group joined                owner away
 *   waiting ────────────────▶ consuming ────────────────▶ paused      (a partition at a time)
 *      ▲                       │     ▲                       │
 *      └─ crash, Kafka away ───┘     └─ 1, 2, 4, 8, 10 s ────┘
 */
export interface TopicConsumerState {
  topic: string;
  state: 'waiting' | 'consuming' | 'paused';
  /** Those from which this consumer has read; one that another member has now has no lag here. */
  partitions: { partition: number; lag: number; paused: boolean }[];
  /** When the newest record that was handed over was written, in milliseconds of the epoch. */
  lastMessageAt: number | null;
  /** Why it waits or pauses. */
  lastError: string | null;
}

/** A killed member's partitions move after this long. */
const SESSION_TIMEOUT_MS = 10_000;
const HEARTBEAT_INTERVAL_MS = 3_000;
/** A member that is busy when others come or go has this long to finish its batch: more than its owner's own bound. */
const REBALANCE_TIMEOUT_MS = 30_000;
/** Bounds how late a stop, or the end of a pause, is noticed. */
const MAX_FETCH_WAIT_MS = 500;
const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 10_000;
const FAREWELL_MS = 5_000;

interface Progress {
  /** The first offset that was not handed over. */
  next: bigint;
  end: bigint;
  /** Each success halves them. */
  failures: number;
  paused: boolean;
}

/**
 * One member of a consumer group: hands the committed records of a topic to their owner, and commits the offset when
 * the owner has them. Whatever is killed, each record is handed over at least once, and the records of a partition in
 * their order. While the owner is away the partition pauses, and the member stays in the group.
 */
export class TopicConsumer {
  private readonly options: TopicConsumerOptions;
  private readonly closing = new AbortController();
  private readonly progress = new Map<number, Progress>();
  private running: Promise<void> | undefined;
  private stopConsuming = () => {};
  private underWay: Promise<void> = Promise.resolve();
  private joined = false;
  private lastMessageAt: number | null = null;
  private lastError: string | null = null;

  constructor(options: TopicConsumerOptions) {
    this.options = options;
  }

  /** Consumes until `close`, through any outage. Returns at once. */
  start(): void {
    this.running ??= this.keepConsuming();
  }

  /** Finishes the records under way, commits them and leaves the group. */
  async close(): Promise<void> {
    this.closing.abort();
    this.stopConsuming();
    await this.running;
  }

  state(): TopicConsumerState {
    const partitions = [...this.progress].map(([partition, { next, end, paused }]) => ({
      partition,
      lag: Number(end - next),
      paused,
    }));
    const active = partitions.some(({ paused }) => paused) ? 'paused' : 'consuming';
    const state = this.joined ? active : 'waiting';
    const { lastMessageAt, lastError } = this;
    return { topic: this.options.topic, state, partitions, lastMessageAt, lastError };
  }

  /** kafkajs starts itself again after some errors only; a new consumer after any is simpler to be sure of. */
  private async keepConsuming(): Promise<void> {
    const { signal } = this.closing;
    for (let crashes = 0; !signal.aborted; ) {
      await this.consume().catch((error) => this.noteError(fromKafka(error)));
      crashes = this.joined ? 1 : crashes + 1;
      this.joined = false;
      await delay(pauseAfter(crashes), undefined, { signal }).catch(() => {});
    }
  }

  /** Consumes until the stop, or until kafkajs gives up. */
  private async consume(): Promise<void> {
    const consumer = this.options.kafka.consumer({
      groupId: this.options.groupId,
      sessionTimeout: SESSION_TIMEOUT_MS,
      heartbeatInterval: HEARTBEAT_INTERVAL_MS,
      rebalanceTimeout: REBALANCE_TIMEOUT_MS,
      maxWaitTimeInMs: MAX_FETCH_WAIT_MS,
      // By default a megabyte, which is one record where records are large: then each has a transaction of its own.
      maxBytesPerPartition: MAX_PORTION_BYTES,
      readUncommitted: false,
      allowAutoTopicCreation: false,
      retry: { restartOnFailure: async () => false },
    });
    const ended = this.listen(consumer);
    const pauses = new Set<NodeJS.Timeout>();
    const joining = this.join(consumer, pauses);
    try {
      await Promise.race([joining.then(() => ended), ended]);
    } finally {
      await this.leave(consumer, joining);
      for (const pause of pauses) clearTimeout(pause);
      for (const progress of this.progress.values()) progress.paused = false;
    }
  }

  private async join(consumer: Consumer, pauses: Set<NodeJS.Timeout>): Promise<void> {
    await this.findTopic();
    await consumer.connect();
    await consumer.subscribe({ topics: [this.options.topic], fromBeginning: true });
    if (this.closing.signal.aborted) return;
    await consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      eachBatch: (payload) => this.handOver(payload, pauses),
    });
  }

  /** Waits for the records under way; for a broker that has fallen silent not long. kafkajs can leave when it has joined. */
  private async leave(consumer: Consumer, joining: Promise<void>): Promise<void> {
    const left = joining.catch(() => {}).then(() => consumer.disconnect());
    await this.underWay.catch(() => {});
    await Promise.race([left.catch(() => {}), delay(FAREWELL_MS, undefined, { ref: false })]);
  }

  private async findTopic(): Promise<void> {
    const { kafka, topic, partitions } = this.options;
    const admin = kafka.admin();
    try {
      await admin.connect();
      await ensureTopics(admin, [topic], partitions);
    } finally {
      await admin.disconnect().catch(() => {});
    }
  }

  /** The promise resolves at the stop, and is rejected by a crash. */
  private listen(consumer: Consumer): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => {});
    this.stopConsuming = resolve;
    if (this.closing.signal.aborted) resolve();
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      this.joined = true;
      this.lastError = null;
      this.keepOnly(new Set(payload.memberAssignment[this.options.topic]));
    });
    consumer.on(consumer.events.END_BATCH_PROCESS, (event) => void this.passMarkers(consumer, event));
    return promise;
  }

  private async handOver(payload: EachBatchPayload, pauses: Set<NodeJS.Timeout>): Promise<void> {
    const { batch, resolveOffset, heartbeat, commitOffsetsIfNecessary } = payload;
    const { topic, partition, messages } = batch;
    const progress = this.meet(partition, BigInt(messages[0]!.offset), batch.highWatermark);
    for (let from = 0; from < messages.length && this.isActive(payload); ) {
      const portion = portionOf(messages, from, progress.failures);
      const records = portion.map((message) => toRecord(topic, partition, message));
      try {
        this.underWay = whileBeating(heartbeat, () => this.options.handle(records));
        await this.underWay;
      } catch (error) {
        this.pause(payload, error, pauses);
        return;
      }
      const last = portion.at(-1)!.offset;
      resolveOffset(last);
      // Behind the last of a batch there may be the markers of transactions.
      from += portion.length;
      const next = BigInt(from === messages.length ? batch.lastOffset() : last) + 1n;
      await commitOffsetsIfNecessary({
        topics: [{ topic, partitions: [{ partition, offset: String(next) }] }],
      });
      Object.assign(progress, { next, failures: progress.failures >> 1 });
      this.noteHandled(records);
      await heartbeat();
    }
  }

  private isActive = ({ isRunning }: EachBatchPayload): boolean =>
    isRunning() && !this.closing.signal.aborted;

  /** What was not handed over is fetched again when the pause is over. */
  private pause({ batch, pause }: EachBatchPayload, error: unknown, pauses: Set<NodeJS.Timeout>): void {
    const progress = this.progress.get(batch.partition)!;
    this.noteError(error);
    progress.failures += 1;
    progress.paused = true;
    const resume = pause();
    const timer = setTimeout(() => {
      pauses.delete(timer);
      progress.paused = false;
      resume();
    }, pauseAfter(progress.failures));
    pauses.add(timer);
  }

  /** A batch of nothing but the markers of transactions, or of aborted ones, is not shown to us: it is committed here. */
  private async passMarkers(consumer: Consumer, { payload }: ConsumerEndBatchProcessEvent): Promise<void> {
    const { topic, partition, batchSize, lastOffset, highWatermark } = payload;
    if (batchSize > 0) return;
    const next = BigInt(lastOffset) + 1n;
    await consumer.commitOffsets([{ topic, partition, offset: String(next) }]).catch(() => {});
    this.meet(partition, next, highWatermark);
  }

  private meet(partition: number, next: bigint, highWatermark: string): Progress {
    const known = this.progress.get(partition) ?? { failures: 0, paused: false };
    const progress = Object.assign(known, { next, end: BigInt(highWatermark) });
    this.progress.set(partition, progress);
    return progress;
  }

  private keepOnly(assigned: Set<number>): void {
    for (const [partition, progress] of this.progress) {
      if (!assigned.has(partition)) Object.assign(progress, { end: progress.next, paused: false });
    }
  }

  private noteHandled(records: ConsumedRecord[]): void {
    this.lastError = null;
    const newest = Math.max(...records.map(({ timestamp }) => timestamp));
    this.lastMessageAt = Math.max(this.lastMessageAt ?? newest, newest);
  }

  private noteError(error: unknown): void {
    const problem = describeError(error);
    const { topic, logger } = this.options;
    if (problem !== this.lastError) logger.warn({ topic, error: problem }, 'the consumer waits');
    this.lastError = problem;
  }
}

const pauseAfter = (failures: number): number => Math.min(MIN_PAUSE_MS * 2 ** (failures - 1), MAX_PAUSE_MS);

/** Work that may take longer than the group waits for a sign of life. What heartbeats say of the group, the commit says too. */
async function whileBeating(heartbeat: () => Promise<void>, work: () => Promise<unknown>): Promise<void> {
  const timer = setInterval(() => heartbeat().catch(() => {}), HEARTBEAT_INTERVAL_MS / 2);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
}
