/** Kafka's own rule (org.apache.kafka.common.internals.Topic): 1 to 249 of these characters, and not `.` or `..`. */
const LEGAL_TOPIC = /^[a-zA-Z0-9._-]{1,249}$/;

export function isLegalTopic(topic: string): boolean {
  return LEGAL_TOPIC.test(topic) && topic !== '.' && topic !== '..';
}

export interface PartitionPlan {
  /** The topic of the users' messages, `CONVERSATION_INBOUND`. */
  conversationTopic: string;
  /** For topics that the platform has not planned. */
  defaultPartitions: number;
}

/**
 * How many partitions a topic gets when the relay has to create it: the platform's planned counts. A topic that exists
 * keeps what it has.
 */
export function plannedPartitions(topic: string, plan: PartitionPlan): number {
  if (topic.endsWith('.dlq')) return 3;
  if (topic === plan.conversationTopic) return 12;
  if (topic === 'somabrain.memory.remember') return 6;
  return plan.defaultPartitions;
}
