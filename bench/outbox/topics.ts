import { randomUUID } from 'node:crypto';
import { eventually } from '../../test/support/eventually.ts';
import { testKafka, uniqueTopic } from '../../test/support/kafka.ts';
import { openPublisher } from '../../test/support/relay.ts';

const PARTITIONS = 6;

/**
 * A new topic whose every partition answers. Kafka names the leaders of a new topic before they accept records, and
 * the relay's first batch would fail with NOT_LEADER_FOR_PARTITION and wait for Temporal's retry: true, and seen here,
 * but a second of waiting says nothing about rates.
 */
export async function newTopic(): Promise<string> {
  const topic = uniqueTopic('bench');
  const admin = testKafka().admin();
  await admin.connect();
  try {
    await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS }], waitForLeaders: true });
    await eventually('the new topic', () => admin.fetchTopicOffsets(topic).then(() => true));
    return topic;
  } finally {
    await admin.disconnect();
  }
}

/** Kafka makes the topics behind groups and transactions at their first use, and refuses that one. */
export async function warmUpKafka(): Promise<void> {
  for (const _ of Array(4).keys()) {
    const id = randomUUID();
    await eventually('a first transaction', async () => {
      const publisher = openPublisher(id, 0);
      try {
        await publisher.initialise();
        return true;
      } finally {
        await publisher.close();
      }
    });
  }
}
