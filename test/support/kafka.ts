import '../../src/kafka/readCommitted.ts';
import { randomUUID } from 'node:crypto';
import kafkajs, { type EachMessagePayload, type Kafka, logLevel } from 'kafkajs';
import { eventually } from './eventually.ts';
import { testStack } from './stack.ts';

export interface Received {
  topic: string;
  partition: number;
  key: string | null;
  value: string;
  headers: Record<string, string>;
}

export interface TopicReader extends AsyncDisposable {
  /** What has been read so far, in each partition's order. */
  received: Received[];
}

export const uniqueTopic = (name = 'test'): string => `${name}.${randomUUID().slice(0, 8)}`;

const patience = { initialRetryTime: 100, maxRetryTime: 1_000, retries: 100 };

/** A plain client of the run's Kafka, with the patience to live through its restarts. */
export function testKafka(): Kafka {
  const brokers = testStack().env().SA01_KAFKA_BOOTSTRAP_SERVERS!.split(',');
  return new kafkajs.Kafka({
    brokers,
    logLevel: logLevel.NOTHING,
    retry: patience,
  });
}

/** Reads topics from their beginning as a read_committed consumer does; they are created where they don't exist. */
export async function readTopics(topics: string[], partitions = 6): Promise<TopicReader> {
  const kafka = testKafka();
  const admin = kafka.admin();
  await admin.connect();
  const wanted = topics.map((topic) => ({ topic, numPartitions: partitions }));
  // A second try finds them there: a broker may not have heard of them at the first.
  await eventually('the topics', () =>
    admin.createTopics({ topics: wanted, waitForLeaders: true }).then(() => true),
  );
  await admin.disconnect();

  const received: Received[] = [];
  // kafkajs reads committed records only, unless told otherwise.
  let closed = false;
  const consumer = kafka.consumer({
    groupId: randomUUID(),
    maxWaitTimeInMs: 50,
    readUncommitted: false,
    // After a broker's crash the group waits this long for its former member.
    sessionTimeout: 6_000,
    // Without this a consumer that crashed in an outage restarts itself even after its disconnect.
    retry: { ...patience, restartOnFailure: async () => !closed },
  });
  await consumer.connect();
  await eventually('the subscription', () =>
    consumer.subscribe({ topics, fromBeginning: true }).then(() => true),
  );
  const next = new Map<string, bigint>();
  await consumer.run({
    eachMessage: async (payload) => {
      // In a crash of the broker a consumer may lose what it has read since its last commit, and read it again. That is
      // this reader's affair: the same offset is the same record.
      const place = `${payload.topic}/${payload.partition}`;
      const offset = BigInt(payload.message.offset);
      if (offset < (next.get(place) ?? 0n)) return;
      next.set(place, offset + 1n);
      received.push(toReceived(payload));
    },
  });
  return {
    received,
    async [Symbol.asyncDispose]() {
      closed = true;
      await consumer.disconnect();
    },
  };
}

function toReceived({ topic, partition, message }: EachMessagePayload): Received {
  const headers = Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(value)]);
  const key = message.key === null ? null : message.key.toString();
  return { topic, partition, key, value: String(message.value), headers: Object.fromEntries(headers) };
}
