/** Kafka's own rule (org.apache.kafka.common.internals.Topic): 1 to 249 of these characters, and not `.` or `..`. */
const LEGAL_TOPIC = /^[a-zA-Z0-9._-]{1,249}$/;

export function isLegalTopic(topic: string): boolean {
  return LEGAL_TOPIC.test(topic) && topic !== '.' && topic !== '..';
}

/** What Kafka says of a topic that exists. */
export interface TopicFacts {
  partitions: number;
  /** The largest record batch that it takes (`max.message.bytes`); undefined where we may not read its configuration. */
  maxMessageBytes: number | undefined;
  /** A compacted topic takes no record without a key. */
  compacted: boolean;
}

/** Where the dead letters of a topic go; undefined for a dead letter of such a topic, and where a name is illegal. */
export function deadLetterTopic(topic: string): string | undefined {
  const name = `${topic}${DEAD_LETTER_SUFFIX}`;
  return topic.endsWith(DEAD_LETTER_SUFFIX) || ![topic, name].every(isLegalTopic) ? undefined : name;
}

const DEAD_LETTER_SUFFIX = '.dlq';

/** Where the health cycle tells of outages and recoveries. */
export const DEGRADATION_TOPIC = 'degradation.events';

export interface PartitionPlan {
  /** The topic of the users' messages, `CONVERSATION_INBOUND`. */
  conversationTopic: string;
  /** For topics that the platform has not planned. */
  defaultPartitions: number;
  /** Whether missing topics are created; if not, a message to one is refused. */
  createTopics: boolean;
}

/**
 * How many partitions a topic gets when the relay has to create it: the platform's planned counts. A topic that exists
 * keeps what it has.
 */
export function plannedPartitions(topic: string, plan: PartitionPlan): number {
  if (topic.endsWith(DEAD_LETTER_SUFFIX)) return 3;
  if (topic === plan.conversationTopic) return 12;
  if (topic === 'somabrain.memory.remember') return 6;
  return plan.defaultPartitions;
}
