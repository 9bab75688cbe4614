import { randomUUID } from 'node:crypto';
import {
  type Admin,
  type Kafka,
  type Message,
  Partitioners,
  type PartitionMetadata,
  type Producer,
  type RecordMetadata,
  type Transaction,
} from 'kafkajs';
import { OrchestratorError } from '../domain/errors.ts';
import { type OutboxRecord, refusalBy } from '../domain/outbox.ts';
import type { Mark } from '../domain/outboxTakeover.ts';
import type { OutboxTopics } from '../domain/outboxTopics.ts';
import type { PartitionPlan, TopicFacts } from '../domain/topics.ts';
import { BatchRejectedError, fromKafka, protocolType, rejectable } from './errors.ts';
import { BARRIER_PARTITION, MARK_PARTITION, MARK_TOPIC, outboxGroup, toMark } from './outboxMarks.ts';
import { untilReady } from './patience.ts';
import { createMissing, ensureTopics } from './topics.ts';

/**
 * The relay's narrow view of Kafka: one shard's transactional producer.
 *
 * After an error the publisher is finished: close it and make another, whose `initialise` says what became of the
 * batch. Only a BatchRejectedError that names the topic leaves it usable, because nothing was sent. Errors are
 * OrchestratorErrors: batch_rejected, relay_fenced, kafka_unavailable.
 */
export interface OutboxPublisher {
  /**
   * Fences every earlier publisher of this shard and returns the number and id of the last batch that Kafka
   * committed, undefined if there was none. No batch of a fenced publisher can be committed after this returned.
   */
  initialise(): Promise<Mark | undefined>;
  /** Writes the records and the mark in one transaction; when it returns, read_committed consumers see all of it. */
  publish(mark: Mark, records: OutboxRecord[]): Promise<void>;
  close(): Promise<void>;
}

export interface OutboxPublisherOptions {
  kafka: Kafka;
  deploymentId: string;
  shard: number;
  partitions: PartitionPlan;
  /** Told what Kafka says of the topics that this publisher meets. */
  topics: OutboxTopics;
}

/** What passes by itself: the markers of the last transaction, and a mark topic that was created a moment ago. */
const NOT_YET = new Set(['CONCURRENT_TRANSACTIONS', 'UNKNOWN_TOPIC_OR_PARTITION']);

/** Kafka aborts a transaction that stays open longer. Until then it holds back the read_committed readers behind it. */
const TRANSACTION_TIMEOUT_MS = 20_000;

/**
 * kafkajs behind guards against its silent losses (found by running it, see docs/decisions/0003-guarded-kafkajs.md):
 * partitions are computed here and not by a retry; no retries, no abort, no reuse after an error; the offset comes
 * first in each transaction; before the commit, the responses must cover exactly what was sent.
 */
export class KafkajsOutboxPublisher implements OutboxPublisher {
  private readonly admin: Admin;
  private readonly producer: Producer;
  private readonly groupId: string;
  private readonly plan: PartitionPlan;
  private readonly topics: OutboxTopics;
  /** Of this publisher's lifetime only, a minute: topics get partitions, and are deleted. */
  private readonly facts = new Map<string, TopicFacts>();

  constructor({ kafka, deploymentId, shard, partitions, topics }: OutboxPublisherOptions) {
    this.groupId = outboxGroup(deploymentId, shard);
    this.plan = partitions;
    this.topics = topics;
    this.admin = kafka.admin();
    this.producer = kafka.producer({
      transactionalId: this.groupId,
      transactionTimeout: TRANSACTION_TIMEOUT_MS,
      maxInFlightRequests: 1,
      retry: { retries: 0 },
      allowAutoTopicCreation: false,
      createPartitioner: () => (args) => args.message.partition!,
    });
  }

  async initialise(): Promise<Mark | undefined> {
    return this.guarded(async () => {
      // One after the other: kafkajs goes on with a second attempt behind the back of a failed first one.
      await this.admin.connect();
      await this.producer.connect();
      await createMissing(this.admin, [{ topic: MARK_TOPIC, numPartitions: 2 }]);
      // The first transaction makes kafkajs send InitProducerId: this is where the fencing happens, and where Kafka
      // brings the predecessor's last transaction to its end before it answers.
      const token = randomUUID();
      const barrier = await this.begin({ partition: BARRIER_PARTITION, offset: '0', metadata: token });
      await barrier.commit();
      return this.readMark(token);
    });
  }

  async publish({ number, batchId }: Mark, records: OutboxRecord[]): Promise<void> {
    await this.guarded(async () => {
      await this.learnTopics(records);
      const topicMessages = this.toMessages(records);
      const mark = { partition: MARK_PARTITION, offset: String(number), metadata: batchId };
      const transaction = await this.begin(mark);
      if (topicMessages.length > 0) {
        const responses = await rejectable(() => transaction.sendBatch({ topicMessages, acks: -1 }));
        assertAllAcknowledged(topicMessages, responses);
      }
      await transaction.commit();
    });
  }

  async close(): Promise<void> {
    await Promise.allSettled([this.producer.disconnect(), this.admin.disconnect()]);
  }

  private async guarded<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw fromKafka(error);
    }
  }

  /**
   * Starts a transaction with its offset, before any record: the cheapest request to repeat. While Kafka writes the
   * markers of the last transaction it refuses the next one, usually for a few milliseconds.
   */
  private async begin(offset: { partition: number; offset: string; metadata: string }): Promise<Transaction> {
    const transaction = await this.producer.transaction();
    const topics = [{ topic: MARK_TOPIC, partitions: [offset] }];
    await untilReady('the end of the previous transaction', async () => {
      try {
        await transaction.sendOffsets({ consumerGroupId: this.groupId, topics });
        return true;
      } catch (error) {
        if (NOT_YET.has(protocolType(error) ?? '')) return false;
        throw error;
      }
    });
    return transaction;
  }

  /**
   * Kafka applies committed offsets a moment after it has answered, so a read may be stale. It applies them in the
   * order of the log: once the barrier's token is there, everything that was committed before it is there too.
   */
  private async readMark(token: string): Promise<Mark | undefined> {
    let mark: Mark | undefined;
    await untilReady('the barrier offset', async () => {
      const [offsets] = await this.admin.fetchOffsets({ groupId: this.groupId, topics: [MARK_TOPIC] });
      const at = (partition: number) => offsets?.partitions.find((found) => found.partition === partition);
      if (at(BARRIER_PARTITION)?.metadata !== token) return false;
      mark = toMark(at(MARK_PARTITION));
      return true;
    });
    return mark;
  }

  /**
   * Asks for topics that this publisher does not know, and again for one that is known to refuse a record: somebody may
   * have changed it. What Kafka would refuse then is not sent.
   */
  private async learnTopics(records: OutboxRecord[]): Promise<void> {
    const asked = records.filter((record) => !this.facts.has(record.topic) || this.refusal(record));
    if (asked.length === 0) return;
    const topics = [...new Set(asked.map(({ topic }) => topic))];
    for (const [topic, facts] of await ensureTopics(this.admin, topics, this.plan)) {
      this.facts.set(topic, facts);
      this.topics.learn(topic, facts, Date.now());
    }
    for (const record of asked) {
      const rejection = this.refusal(record);
      if (rejection) throw new BatchRejectedError(rejection, { topic: record.topic });
    }
  }

  /** By the value alone, counted as cheaply as can be: whatever is refused here, the relay refuses as well. */
  private refusal({ topic, key, value }: OutboxRecord) {
    return refusalBy(this.facts.get(topic), { topic, key, bytes: value.length });
  }

  private toMessages(records: OutboxRecord[]): TopicMessages[] {
    const messages = new Map<string, PlacedMessage[]>();
    for (const record of records) {
      const { topic, key, value, headers } = record;
      const message = {
        key,
        value,
        headers,
        partition: partitionOf(record, this.facts.get(topic)!.partitions),
      };
      const ofTopic = messages.get(topic);
      if (ofTopic) ofTopic.push(message);
      else messages.set(topic, [message]);
    }
    return [...messages].map(([topic, ofTopic]) => ({ topic, messages: ofTopic }));
  }
}

type PlacedMessage = Message & { partition: number };
interface TopicMessages {
  topic: string;
  messages: PlacedMessage[];
}

const murmur2Partition = Partitioners.DefaultPartitioner();
const partitionMetadata = new Map<number, PartitionMetadata[]>();

/** As Java's default partitioner by key, so that other producers of a key agree; rows without one spread by their id. */
export function partitionOf(
  { topic, key, id }: Pick<OutboxRecord, 'topic' | 'key' | 'id'>,
  partitions: number,
) {
  let metadata = partitionMetadata.get(partitions);
  if (!metadata) {
    metadata = Array.from({ length: partitions }, (_, partitionId) => leaderOf(partitionId));
    partitionMetadata.set(partitions, metadata);
  }
  return murmur2Partition({ topic, partitionMetadata: metadata, message: { key: key ?? id, value: null } });
}

const leaderOf = (partitionId: number): PartitionMetadata => ({
  partitionId,
  leader: 0,
  partitionErrorCode: 0,
  replicas: [],
  isr: [],
});

/** kafkajs resolves a send whose leader moved without having sent all of it: its answer then lacks that partition. */
function assertAllAcknowledged(sent: TopicMessages[], responses: RecordMetadata[]): void {
  const expected = new Set(
    sent.flatMap(({ topic, messages }) => messages.map(({ partition }) => `${topic}/${partition}`)),
  );
  for (const { topicName, partition } of responses) expected.delete(`${topicName}/${partition}`);
  if (expected.size > 0) {
    throw new OrchestratorError('kafka_unavailable', `no broker acknowledged ${[...expected].join(', ')}`);
  }
}
