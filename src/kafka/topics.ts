import type { Admin } from 'kafkajs';
import { type PartitionPlan, plannedPartitions } from '../domain/topics.ts';
import { protocolType } from './errors.ts';
import { untilReady } from './patience.ts';

/** What a broker says of a topic that was created a moment ago. */
const NOT_YET = new Set(['UNKNOWN_TOPIC_OR_PARTITION', 'LEADER_NOT_AVAILABLE']);

/**
 * The partition counts of `topics`, all of which exist afterwards: missing ones are created with the planned counts
 * and the cluster's own replication factor. Two relays may create the same topic at once; one of them finds it there.
 */
export async function ensureTopics(
  admin: Admin,
  topics: string[],
  plan: PartitionPlan,
): Promise<Map<string, number>> {
  await createMissing(
    admin,
    topics.map((topic) => ({ topic, numPartitions: plannedPartitions(topic, plan) })),
  );
  const counts = new Map<string, number>();
  await untilReady(`the leaders of ${topics.join(', ')}`, async () => {
    for (const { name, partitions } of await describe(admin, topics)) counts.set(name, partitions.length);
    return topics.every((topic) => counts.has(topic));
  });
  return counts;
}

/** Creates those of the topics that are not there yet. */
export async function createMissing(
  admin: Admin,
  topics: { topic: string; numPartitions: number }[],
): Promise<void> {
  const existing = new Set(await admin.listTopics());
  const missing = topics.filter(({ topic }) => !existing.has(topic));
  // kafkajs's own wait for leaders gives up where a broker has not heard of the topic yet.
  if (missing.length > 0) await admin.createTopics({ topics: missing, waitForLeaders: false });
}

async function describe(admin: Admin, topics: string[]) {
  try {
    return (await admin.fetchTopicMetadata({ topics })).topics;
  } catch (error) {
    if (NOT_YET.has(protocolType(error) ?? '')) return [];
    throw error;
  }
}
