import type { Journal, Mark } from './outboxTakeover.ts';

/** How a person decides about the rows of a stopped shard of which it is not known whether Kafka has them. */
export type RepairChoice =
  /** They are sent; Kafka may get some of them twice. */
  | { kind: 'resend' }
  /** The open batch, and what was created before a time, was delivered; what Kafka does not have is lost to it. */
  | { kind: 'mark-delivered'; before: Date | undefined }
  /** Each is looked up in Kafka. */
  | { kind: 'compare' };

/** Where a stopped shard goes on: behind the last batch that Kafka knows. */
export const settledInKafka = (mark: Mark | undefined): Journal['settled'] =>
  mark ?? { number: 0, batchId: null };

/**
 * Kafka knows batches that Postgres does not: Postgres was set back. Then not only the open batch is in doubt, but
 * every row that the older copy holds as unsent.
 */
export function isPostgresBehind({ settled }: Journal, mark: Mark | undefined): boolean {
  return mark !== undefined && mark.number >= settled.number;
}
