// Which topics a worker consumes, and who owns what is on them.
import { createHash } from 'node:crypto';
import type { Client } from '@temporalio/client';
import { Runtime } from '@temporalio/worker';
import type { Kafka } from 'kafkajs';
import type pg from 'pg';
import type { Logger } from 'pino';
import { startBackups } from './backupTasks.ts';
import type { Config } from './config.ts';
import { type ConsumedLetter, writeConsumedLetters } from './database/deadLetters.ts';
import type { Deployment } from './database/deployment.ts';
import { KEY_OF_ANOTHER, queueMemories } from './database/pendingMemories.ts';
import { fromPostgres, inTransaction, withClient } from './database/postgres.ts';
import { takeUploads } from './database/uploads.ts';
import { backupTaskFaults } from './domain/backupInput.ts';
import { backupTaskOf } from './domain/backups.ts';
import type { ConsumedRecord } from './domain/consumedRecord.ts';
import { type ConsumedTopic, type Digest, type TopicMessages, understand } from './domain/topicMessages.ts';
import { TopicConsumer } from './kafka/topicConsumer.ts';
import { startUploads, type UploadStarts } from './uploads.ts';

export interface Message<Topic extends ConsumedTopic> {
  message: TopicMessages[Topic];
  idempotencyKey: string;
  record: ConsumedRecord;
}

/**
 * Makes itself the owner of messages, in their order, and knows those again that it has already, or that are there
 * twice: the first counts. Returns those that it must not take, as dead letters. `client` is in the transaction that
 * writes these, and those of the same batch that are no messages.
 */
export type Owner<Topic extends ConsumedTopic> = (
  client: pg.ClientBase,
  messages: Message<Topic>[],
) => Promise<ConsumedLetter[]>;

/** A topic without an owner is not consumed. */
export const owners: { [Topic in ConsumedTopic]?: Owner<Topic> } = {
  async 'somabrain.memory.remember'(client, messages) {
    const { foreign } = await queueMemories(
      client,
      messages.map(({ message, ...own }) => ({ ...message, ...own })),
    );
    return foreign.map(({ record }) => ({ record, fault: KEY_OF_ANOTHER }));
  },

  /** The workflow is the owner; what it would refuse as its input is a dead letter already. */
  async 'backup.tasks'(_, messages) {
    return messages.flatMap(({ message, record }) => {
      const faults = backupTaskFaults(backupTaskOf(message));
      return faults.length > 0 ? [{ record, fault: faults.join('; ') }] : [];
    });
  },

  async 'upload.retry'(client, messages) {
    const refused = await takeUploads(
      client,
      messages.map(({ message, ...own }) => ({ ...message, ...own, sentAt: own.record.timestamp })),
    );
    return refused.map(({ upload, fault }) => ({ record: upload.record, fault }));
  },
};

/**
 * What is to be done with messages once their owner has them, also when they come again. What it throws has them come
 * again.
 */
export type Sequel<Topic extends ConsumedTopic> = (messages: Message<Topic>[]) => Promise<void>;

/** Each task gets its workflow, unless that was there before, however it ended. */
export const backupSequel =
  (temporal: Client, taskQueue: string): Sequel<'backup.tasks'> =>
  async (messages) => {
    const tasks = messages.map(({ message, idempotencyKey }) => ({
      task: backupTaskOf(message),
      idempotencyKey,
    }));
    await startBackups(
      temporal,
      taskQueue,
      tasks.filter(({ task }) => backupTaskFaults(task).length === 0),
    );
  };
/** Each upload that is not where it belongs yet gets its workflow, unless that runs already. */
export const uploadSequel =
  (starts: UploadStarts): Sequel<'upload.retry'> =>
  (messages) =>
    startUploads(
      starts,
      messages.map(({ idempotencyKey }) => idempotencyKey),
    );

export interface ConsumerDependencies {
  config: Pick<Config, 'conversationTopic' | 'kafka' | 'taskQueue'>;
  deployment: Pick<Deployment, 'id'>;
  kafka: Kafka;
  pool: pg.Pool;
  temporal: Client;
  logger: Logger;
}

/** Starts a consumer for each topic that has an owner. Whoever calls closes them, before the pool. */
export function startConsumers({
  config,
  deployment,
  kafka,
  pool,
  temporal,
  logger,
}: ConsumerDependencies): TopicConsumer[] {
  const { conversationTopic, taskQueue } = config;
  const { defaultPartitions, createTopics } = config.kafka;
  const sequels: { [Topic in ConsumedTopic]?: Sequel<Topic> } = {
    'backup.tasks': backupSequel(temporal, taskQueue),
    'upload.retry': uploadSequel({ pool, temporal, taskQueue }),
  };
  return (Object.keys(owners) as ConsumedTopic[]).map((topic) => {
    const consumer = new TopicConsumer({
      kafka,
      groupId: consumerGroup(deployment.id, topic),
      topic,
      partitions: { conversationTopic, defaultPartitions, createTopics },
      handle: handOver(
        pool,
        topic,
        owners[topic] as Owner<typeof topic>,
        countDeadLetters,
        sequels[topic] as Sequel<typeof topic> | undefined,
      ),
      logger,
    });
    consumer.start();
    return consumer;
  });
}

export const consumerGroup = (deploymentId: string, topic: string): string =>
  `somaagent-orchestrator-${deploymentId}-${topic}`;

/**
 * Hands records of a topic to their owner, and writes the dead letters of those that cannot be understood, in one
 * transaction. What it throws is an outage: nothing of it was kept, or the sequel is still to be done.
 */
export function handOver<Topic extends ConsumedTopic>(
  pool: pg.Pool,
  topic: Topic,
  own: Owner<Topic>,
  onDeadLetters: (letters: number) => void,
  sequel?: Sequel<Topic>,
): (records: ConsumedRecord[]) => Promise<void> {
  return async (records) => {
    const { messages, letters } = sort(topic, records);
    const work = async (client: pg.ClientBase) => {
      const refused = messages.length > 0 ? await own(client, messages) : [];
      return writeConsumedLetters(client, [...letters, ...refused]);
    };
    try {
      onDeadLetters(await withClient(pool, (client) => inTransaction(client, () => work(client))));
      if (messages.length > 0) await sequel?.(messages);
    } catch (error) {
      throw fromPostgres(error);
    }
  };
}

function sort<Topic extends ConsumedTopic>(topic: Topic, records: ConsumedRecord[]) {
  const messages: Message<Topic>[] = [];
  const letters: ConsumedLetter[] = [];
  for (const record of records) {
    const understood = understand(topic, record, sha256);
    if ('fault' in understood) letters.push({ record, fault: understood.fault });
    else messages.push({ message: understood.ok, idempotencyKey: understood.idempotencyKey, record });
  }
  return { messages, letters };
}

const sha256: Digest = (data) => createHash('sha256').update(data).digest('hex');

function countDeadLetters(letters: number): void {
  if (letters === 0) return;
  const counter = Runtime.instance().metricMeter.createCounter(
    'dlq_messages',
    undefined,
    'rows that became dead letters',
  );
  counter.add(letters);
}

/** Sets the gauges of consumers to what their states say now. */
export function measureConsumers(consumers: TopicConsumer[]): void {
  const meter = Runtime.instance().metricMeter;
  const lags = meter.createGauge('consumer_lag', 'int', undefined, 'records that were not handed over yet');
  const pauses = meter.createGauge('consumer_paused', 'int', undefined, '1 while the owner is away');
  const joins = meter.createGauge('consumer_joined', 'int', undefined, '1 while it is in its consumer group');
  const ages = meter.createGauge(
    'consumer_last_message_age_seconds',
    'float',
    undefined,
    'age of the newest record that was handed over',
  );
  for (const consumer of consumers) {
    const { topic, state, partitions, lastMessageAt } = consumer.state();
    joins.set(state === 'waiting' ? 0 : 1, { topic });
    pauses.set(state === 'paused' ? 1 : 0, { topic });
    for (const { partition, lag } of partitions) lags.set(lag, { topic, partition: String(partition) });
    if (lastMessageAt !== null) ages.set(Math.max(0, Date.now() - lastMessageAt) / 1000, { topic });
  }
}
