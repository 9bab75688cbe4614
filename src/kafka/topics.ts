import type { Admin } from 'kafkajs';
import { type PartitionPlan, plannedPartitions } from '../domain/topics.ts';

/**
 * The partition counts of `topics`, all of which exist afterwards: missing ones are created with the planned counts
 * and the cluster's own replication factor. Two relays may create the same topic at once; one of them finds it there.
 */
export async function ensureTopics(
  admin: Admin,
  topics: string[],
  plan: PartitionPlan,
): Promise<Map<string, number>> {
  const existing = new Set(await admin.listTopics());
  const missing = topics.filter((topic) => !existing.has(topic));
  if (missing.length > 0) {
    await admin.createTopics({
      waitForLeaders: true,
      topics: missing.map((topic) => ({ topic, numPartitions: plannedPartitions(topic, plan) })),
    });
  }
  const metadata = await admin.fetchTopicMetadata({ topics });
  return new Map(metadata.topics.map(({ name, partitions }) => [name, partitions.length]));
}
