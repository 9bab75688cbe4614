import type { Admin } from 'kafkajs';
import { type PartitionPlan, plannedPartitions } from '../domain/topics.ts';
import { protocolType } from './errors.ts';
import { untilReady } from './patience.ts';

/** What brokers say of a topic that was created a moment ago. */
const NOT_YET = new Set(['UNKNOWN_TOPIC_OR_PARTITION', 'LEADER_NOT_AVAILABLE', 'NOT_LEADER_FOR_PARTITION']);

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
  for (const topic of topics) await untilReady(`the leaders of ${topic}`, () => hasLeaders(admin, topic));
  const { topics: described } = await admin.fetchTopicMetadata({ topics });
  return new Map(described.map(({ name, partitions }) => [name, partitions.length]));
}

/** Creates those of the topics that are not there yet. */
export async function createMissing(
  admin: Admin,
  topics: { topic: string; numPartitions: number }[],
): Promise<void> {
  const existing = new Set(await admin.listTopics());
  const missing = topics.filter(({ topic }) => !existing.has(topic));
  // kafkajs's own wait gives up where a broker has not heard of the topic yet, and ends before its leader is ready.
  if (missing.length > 0) await admin.createTopics({ topics: missing, waitForLeaders: false });
}

/** Only a partition's leader answers for its offsets. The topic may have been created by another shard just now. */
async function hasLeaders(admin: Admin, topic: string): Promise<boolean> {
  try {
    await admin.fetchTopicOffsets(topic);
    return true;
  } catch (error) {
    if (NOT_YET.has(protocolType(error) ?? '')) return false;
    throw error;
  }
}
