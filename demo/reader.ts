import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import kafkajs from 'kafkajs';
import '../src/kafka/readCommitted.ts';

export interface Received {
  key: string;
  number: number;
  rolledBack: boolean;
}

const QUIET_MS = 3_000;
const patience = { initialRetryTime: 100, maxRetryTime: 1_000, retries: 1_000 };

/** A consumer that reads committed records only, from the topic's beginning, through Kafka's restarts. */
export async function readCommitted(brokers: string, topic: string) {
  const kafka = new kafkajs.Kafka({
    brokers: brokers.split(','),
    logLevel: kafkajs.logLevel.NOTHING,
    retry: patience,
  });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 6 }], waitForLeaders: false });
  await admin.disconnect();

  const received: Received[] = [];
  const next = new Map<number, bigint>();
  let lastAt = Date.now();
  let closed = false;
  // Without the second, a consumer that crashed in an outage restarts itself even after its disconnect.
  const retry = { ...patience, restartOnFailure: async () => !closed };
  const consumer = kafka.consumer({
    groupId: randomUUID(),
    readUncommitted: false,
    sessionTimeout: 6_000,
    retry,
  });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      // In a crash of the broker a consumer may read again what it has read since its last commit. The same offset is the
      // same record; a record that was sent twice has two.
      const offset = BigInt(message.offset);
      if (offset < (next.get(partition) ?? 0n)) return;
      next.set(partition, offset + 1n);
      received.push({ key: String(message.key), ...JSON.parse(String(message.value)) });
      lastAt = Date.now();
    },
  });
  return {
    received,
    /** Resolves when nothing has arrived for some seconds. */
    async quiet() {
      while (Date.now() - lastAt < QUIET_MS) await sleep(100);
    },
    async [Symbol.asyncDispose]() {
      closed = true;
      await consumer.disconnect();
    },
  };
}
