import { pino } from 'pino';
import { TopicConsumer, type TopicConsumerOptions } from '../../src/kafka/topicConsumer.ts';
import { testKafka } from './kafka.ts';
import { openKafka } from './relay.ts';

const logger = pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' });

/** A started consumer of the run's Kafka, closed at the end. */
export function startConsumer(
  options: Pick<TopicConsumerOptions, 'topic' | 'handle'> & Partial<TopicConsumerOptions>,
): TopicConsumer & AsyncDisposable {
  const consumer = new TopicConsumer({
    kafka: openKafka(),
    groupId: `group-${options.topic}`,
    partitions: { conversationTopic: 'conversation.inbound', defaultPartitions: 3, createTopics: true },
    logger,
    ...options,
  });
  consumer.start();
  return Object.assign(consumer, { [Symbol.asyncDispose]: () => consumer.close() });
}

/** By which offset of each partition the group has passed, and by how many the partitions are longer. */
export async function groupOffsets(topic: string): Promise<{ committed: string[]; lag: number }> {
  const admin = testKafka().admin();
  await admin.connect();
  try {
    const [group] = await admin.fetchOffsets({ groupId: `group-${topic}`, topics: [topic] });
    const ends = new Map(
      (await admin.fetchTopicOffsets(topic)).map(({ partition, high }) => [partition, Number(high)]),
    );
    const partitions = group!.partitions.toSorted((one, other) => one.partition - other.partition);
    const lags = partitions.map(
      ({ partition, offset }) => ends.get(partition)! - Math.max(0, Number(offset)),
    );
    return {
      committed: partitions.map(({ offset }) => offset),
      lag: lags.reduce((sum, lag) => sum + lag, 0),
    };
  } finally {
    await admin.disconnect();
  }
}
