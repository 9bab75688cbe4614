import type { Admin } from 'kafkajs';
import type { Mark } from '../domain/outboxTakeover.ts';
import { fromKafka } from './errors.ts';

/**
 * Marks are group offsets, and an offset needs a topic to stand on. This one never holds a record. Deleting it deletes
 * the marks, and every shard stops at its next takeover rather than guess.
 */
export const MARK_TOPIC = 'somaagent.outbox.marks';
export const MARK_PARTITION = 0;
export const BARRIER_PARTITION = 1;

/** A shard's consumer group, and its transactional id. */
export const outboxGroup = (deploymentId: string, shard: number): string =>
  `somaagent-outbox-${deploymentId}-${shard}`;

export function toMark(committed: { offset: string; metadata: string | null } | undefined): Mark | undefined {
  return committed?.metadata ? { number: Number(committed.offset), batchId: committed.metadata } : undefined;
}

/**
 * A shard's mark as anybody may read it: it fences nobody, so it may be a moment old, and the relay may go on. Only a
 * publisher's `initialise` knows the final one.
 * @throws OrchestratorError kafka_unavailable
 */
export async function readMark(admin: Admin, deploymentId: string, shard: number): Promise<Mark | undefined> {
  try {
    // To ask for the offsets of a topic that is not there would create it on some brokers.
    if (!(await admin.listTopics()).includes(MARK_TOPIC)) return undefined;
    const groupId = outboxGroup(deploymentId, shard);
    const [offsets] = await admin.fetchOffsets({ groupId, topics: [MARK_TOPIC] });
    return toMark(offsets?.partitions.find(({ partition }) => partition === MARK_PARTITION));
  } catch (error) {
    throw fromKafka(error);
  }
}
