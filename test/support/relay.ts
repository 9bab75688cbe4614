import type { Kafka } from 'kafkajs';
import { pino } from 'pino';
import { type OutboxRelayDependencies, relayOutboxShard } from '../../src/activities/outboxRelay.ts';
import type { Deployment } from '../../src/database/deployment.ts';
import { OutboxWakeUps } from '../../src/database/outboxWakeUps.ts';
import { describeError } from '../../src/domain/errors.ts';
import type { OutboxRelayReport } from '../../src/domain/outbox.ts';
import { OutboxTopics } from '../../src/domain/outboxTopics.ts';
import { createKafka } from '../../src/kafka/client.ts';
import { KafkajsOutboxPublisher, type OutboxPublisher } from '../../src/kafka/outboxPublisher.ts';
import { tryKafka } from '../../src/kafka/trial.ts';
import { testStack } from './stack.ts';

const logger = pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' });

const runBrokers = (): string[] => testStack().env().SA01_KAFKA_BOOTSTRAP_SERVERS!.split(',');

export const openKafka = (brokers = runBrokers()): Kafka =>
  createKafka({ brokers, ssl: false, sasl: undefined }, logger);

export function openPublisher(
  deploymentId: string,
  shard: number,
  brokers = runBrokers(),
  { topics = new OutboxTopics(), createTopics = true } = {},
): OutboxPublisher {
  return new KafkajsOutboxPublisher({
    kafka: openKafka(brokers),
    deploymentId,
    shard,
    partitions: { conversationTopic: 'conversation.inbound', defaultPartitions: 6, createTopics },
    topics,
  });
}

export interface RunningRelay extends AsyncDisposable {
  reports: OutboxRelayReport[];
  /** Settles when the relay ends: rejected with what ended it, resolved after `stop`. */
  done: Promise<void>;
  stop(): Promise<void>;
}

/** Runs one shard's relay in this process, without Temporal around it. */
export function startRelay(
  database: { url: string; deployment: Deployment },
  shard: number,
  overrides: Partial<OutboxRelayDependencies> = {},
): RunningRelay {
  const wakeUps = new OutboxWakeUps(database.url);
  const controller = new AbortController();
  const reports: OutboxRelayReport[] = [];
  const topics = new OutboxTopics();
  const dependencies: OutboxRelayDependencies = {
    databaseUrl: database.url,
    deployment: database.deployment,
    openPublisher: (of) => openPublisher(database.deployment.id, of, undefined, { topics }),
    tryKafka: () => tryKafka(openKafka()),
    topics,
    wakeUps,
    owner: 'test',
    logger,
    ...overrides,
  };
  const done = relayOutboxShard(dependencies, {
    shard,
    stop: controller.signal,
    onProgress: (report) => reports.push(report),
    onPublished: () => {},
    onSettled: () => {},
    onRejected: () => {},
  }).finally(() => wakeUps.close());
  // Some tests want it to end; in all others this is why they wait in vain.
  done.catch((error: unknown) => console.log(`the relay of shard ${shard} ended: ${describeError(error)}`));
  const stop = async () => {
    controller.abort();
    await done;
  };
  return { reports, done, stop, [Symbol.asyncDispose]: () => stop().catch(() => {}) };
}
