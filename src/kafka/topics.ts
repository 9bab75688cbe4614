import kafkajs, { type Admin } from 'kafkajs';
import { type PartitionPlan, plannedPartitions, type TopicFacts } from '../domain/topics.ts';
import { BatchRejectedError, protocolType, rejectable } from './errors.ts';
import { untilReady } from './patience.ts';

/** What brokers say of a topic that was created a moment ago. */
const NOT_YET = new Set(['UNKNOWN_TOPIC_OR_PARTITION', 'LEADER_NOT_AVAILABLE', 'NOT_LEADER_FOR_PARTITION']);

/**
 * The facts of `topics`, all of which exist afterwards: missing ones are created with the planned counts and the
 * cluster's own replication factor. Two relays may create the same topic at once; one of them finds it there.
 * @throws BatchRejectedError that names the topic: it may not be created, or it is missing and `plan` creates none
 */
export async function ensureTopics(
  admin: Admin,
  topics: string[],
  plan: PartitionPlan,
): Promise<Map<string, TopicFacts>> {
  const existing = new Set(await admin.listTopics());
  for (const topic of topics)
    if (!existing.has(topic)) await rejectable(() => create(admin, topic, plan), topic);
  const facts = new Map<string, TopicFacts>();
  // One after the other: what kafkajs's admin finds out about a topic that is not there yet, it forgets together with
  // what another call has just found out about another topic.
  for (const topic of topics) facts.set(topic, await rejectable(() => describe(admin, topic), topic));
  return facts;
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

async function create(admin: Admin, topic: string, plan: PartitionPlan): Promise<void> {
  if (!plan.createTopics) {
    throw new BatchRejectedError(
      {
        code: 'unknown_topic',
        message: `topic ${topic} does not exist, and SA01_KAFKA_CREATE_TOPICS is false`,
      },
      { topic },
    );
  }
  await admin.createTopics({
    topics: [{ topic, numPartitions: plannedPartitions(topic, plan) }],
    waitForLeaders: false,
  });
}

/** The topic may have been created a moment ago, by another shard: until all brokers know, they deny it. */
async function describe(admin: Admin, topic: string): Promise<TopicFacts> {
  let facts: TopicFacts | undefined;
  await untilReady(`topic ${topic}`, async () => {
    try {
      facts = await readFacts(admin, topic);
      return true;
    } catch (error) {
      if (NOT_YET.has(protocolType(error) ?? '')) return false;
      throw error;
    }
  });
  return facts!;
}

async function readFacts(admin: Admin, topic: string): Promise<TopicFacts> {
  // Only a partition's leader answers for its offsets.
  await admin.fetchTopicOffsets(topic);
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  const settings = await readSettings(admin, topic);
  const limits = ['max.message.bytes', 'segment.bytes'].map((name) => Number(settings.get(name)));
  const maxMessageBytes = Math.min(...limits);
  return {
    partitions: topics[0]!.partitions.length,
    maxMessageBytes: Number.isNaN(maxMessageBytes) ? undefined : maxMessageBytes,
    compacted: settings.get('cleanup.policy')?.includes('compact') ?? false,
  };
}

/** Empty where we may not read them. */
async function readSettings(admin: Admin, topic: string): Promise<Map<string, string>> {
  const configNames = ['max.message.bytes', 'segment.bytes', 'cleanup.policy'];
  const resource = { type: kafkajs.ConfigResourceTypes.TOPIC, name: topic, configNames };
  try {
    const { resources } = await admin.describeConfigs({ resources: [resource], includeSynonyms: false });
    const entries = resources.flatMap(({ configEntries }) => configEntries);
    return new Map(entries.map(({ configName, configValue }) => [configName, configValue]));
  } catch (error) {
    if (protocolType(error)?.endsWith('AUTHORIZATION_FAILED')) return new Map();
    throw error;
  }
}
