import './compression.ts';
import './readCommitted.ts';
import { randomUUID } from 'node:crypto';
import type { Admin, Consumer, Kafka } from 'kafkajs';
import { MESSAGE_ID_HEADER } from '../domain/outbox.ts';
import { fromKafka } from './errors.ts';

export interface Comparison {
  kafka: Kafka;
  /** Of the group that reads; it is deleted afterwards. */
  groupPrefix: string;
  /** What to read, each topic from a time on, in milliseconds. */
  topics: Map<string, number>;
  /** Gets the `message_id` headers of a portion of records. */
  onMessageIds(ids: string[]): Promise<void>;
}

/**
 * Reads the committed records of topics from the given times to the ends that they have at the start. A topic that does
 * not exist has no records.
 * @throws OrchestratorError kafka_unavailable
 */
export async function readMessageIds({
  kafka,
  groupPrefix,
  topics,
  onMessageIds,
}: Comparison): Promise<void> {
  const admin = kafka.admin();
  const groupId = `${groupPrefix}-${randomUUID()}`;
  try {
    await admin.connect();
    const ranges = await rangesOf(admin, topics);
    if (ranges.length === 0) return;
    const consumer = kafka.consumer({
      groupId,
      maxWaitTimeInMs: 100,
      retry: { restartOnFailure: async () => false },
    });
    try {
      await readRanges(consumer, ranges, onMessageIds);
    } finally {
      await consumer.disconnect();
    }
    await admin.deleteGroups([groupId]).catch(() => {});
  } catch (error) {
    throw fromKafka(error);
  } finally {
    await admin.disconnect();
  }
}

/** Offsets of one partition, `end` excluded. */
interface Range {
  topic: string;
  partition: number;
  start: bigint;
  end: bigint;
}

async function rangesOf(admin: Admin, topics: Map<string, number>): Promise<Range[]> {
  const existing = new Set(await admin.listTopics());
  const ranges: Range[] = [];
  for (const [topic, since] of topics) {
    if (!existing.has(topic)) continue;
    const ends = new Map(
      (await admin.fetchTopicOffsets(topic)).map(({ partition, high }) => [partition, BigInt(high)]),
    );
    for (const { partition, offset } of await admin.fetchTopicOffsetsByTimestamp(topic, since)) {
      const range = { topic, partition, start: BigInt(offset), end: ends.get(partition) ?? 0n };
      if (range.start < range.end) ranges.push(range);
    }
  }
  return ranges;
}

async function readRanges(
  consumer: Consumer,
  ranges: Range[],
  onMessageIds: (ids: string[]) => Promise<void>,
): Promise<void> {
  const left = new Map(ranges.map((range) => [placeOf(range), range.end]));
  const { promise: finished, resolve, reject } = Promise.withResolvers<void>();
  consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
  // Told for each batch that was fetched, also for one of nothing but the markers of transactions.
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => {
    const end = left.get(placeOf(payload));
    if (end !== undefined && BigInt(payload.lastOffset) >= end - 1n) left.delete(placeOf(payload));
    if (left.size === 0) resolve();
  });
  await consumer.connect();
  // Should the group be joined anew, it begins at the beginning: rather too much than too little.
  await consumer.subscribe({ topics: [...new Set(ranges.map(({ topic }) => topic))], fromBeginning: true });
  const running = consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      // Beyond the ranges there is nothing to look for.
      if (!left.has(placeOf(batch))) return;
      const ids = batch.messages.flatMap(({ headers }) => headers?.[MESSAGE_ID_HEADER] ?? []).map(String);
      await onMessageIds(ids).catch(reject);
    },
  });
  // Before the first fetch, hence without waiting for `running`.
  for (const { topic, partition, start } of ranges)
    consumer.seek({ topic, partition, offset: String(start) });
  await running;
  await finished;
}

const placeOf = ({ topic, partition }: { topic: string; partition: number }): string =>
  `${topic}/${partition}`;
