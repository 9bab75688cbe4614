import { describeRejection, type OutboxRowHead, type RejectedRow } from '../domain/outbox.ts';
import { MAX_BACKOFF_POWER } from '../domain/outboxDelivery.ts';
import { writeDeadLetters } from './deadLetters.ts';
import { shardExpression } from './deployment.ts';
import { HEAD_COLUMNS } from './outboxClaim.ts';
import type { Queryable } from './postgres.ts';

/** A row that Kafka definitely refuses. */
export type Culprit = { row: Pick<OutboxRowHead, 'id'>; rejection: RejectedRow['rejection'] };

/**
 * Spends an attempt of each culprit, as long as its status is `from`. With attempts left it is parked: status `failed`,
 * the next one due after 2^attempts seconds (the platform's own schedule), later rows of its topic and key held back.
 * After the last one it is `dead`, with its letter written in this same transaction. Returns how many died.
 */
export async function park(
  client: Queryable,
  culprits: Culprit[],
  from: 'pending' | 'failed' = 'pending',
): Promise<number> {
  if (culprits.length === 0) return 0;
  const { rows } = await client.query<{ id: string; topic: string; status: string }>(
    `UPDATE public.core_outboxmessage AS message
     SET attempts = least(attempts, 2147483646) + 1, last_error = culprit.reason,
         status = CASE WHEN attempts < max_attempts - 1 THEN 'failed' ELSE 'dead' END,
         failed_at = CASE WHEN attempts < max_attempts - 1 THEN failed_at ELSE now() END,
         next_retry_at = CASE WHEN attempts < max_attempts - 1
           THEN now() + make_interval(secs => 2 ^ least(attempts + 1, ${MAX_BACKOFF_POWER})) END
     FROM unnest($1::uuid[], $2::text[]) AS culprit (id, reason)
     WHERE message.id = ANY($1::uuid[]) AND message.id = culprit.id AND message.status = $3
     RETURNING message.id, message.topic, message.status`,
    [culprits.map(({ row }) => row.id), culprits.map(({ rejection }) => describeRejection(rejection)), from],
  );
  const rejectionOf = new Map(culprits.map(({ row, rejection }) => [row.id, rejection]));
  const dead = rows.filter(({ status }) => status === 'dead');
  await writeDeadLetters(
    client,
    dead.map(({ id, topic }) => {
      const { code, message } = rejectionOf.get(id)!;
      return { id, topic, code, reason: message };
    }),
  );
  return dead.length;
}

/** Puts parked rows back among the pending. */
export async function release(client: Queryable, rows: Pick<OutboxRowHead, 'id'>[]): Promise<void> {
  if (rows.length === 0) return;
  await client.query(
    `UPDATE public.core_outboxmessage SET status = 'pending', next_retry_at = NULL
     WHERE id = ANY($1::uuid[]) AND status = 'failed'`,
    [rows.map(({ id }) => id)],
  );
}

/** A flood of parked rows is tried again in portions, so that the rows beside it are not kept waiting. */
export const RETRY_PORTION = 50;
/** A row with a delivery workflow is that one's to try again. Where it does not (terminated, Temporal away), the relay does. */
const WORKFLOW_GRACE = '10 seconds';

/**
 * Parked rows of a shard whose next attempt is due, a portion of them, locked until the caller's transaction ends. As
 * for the platform's own publisher, a row without next_retry_at is due at once.
 */
export async function lockDue(client: Queryable, shard: number, shards: number): Promise<OutboxRowHead[]> {
  const { rows } = await client.query<OutboxRowHead>({
    name: 'outbox-due',
    text: `SELECT ${HEAD_COLUMNS} FROM public.core_outboxmessage AS message
           WHERE status = 'failed' AND ${shardExpression(shards)} = $1
             AND coalesce(next_retry_at <= now(), true) AND (
               coalesce(next_retry_at <= now() - interval '${WORKFLOW_GRACE}', true) OR NOT EXISTS (
                 SELECT FROM orchestrator.outbox_delivery WHERE message_id = message.id AND started_at IS NOT NULL))
           LIMIT ${RETRY_PORTION} FOR UPDATE OF message SKIP LOCKED`,
    values: [shard],
  });
  return rows;
}

/** How many rows of a shard are parked. */
export async function countParked(client: Queryable, shard: number, shards: number): Promise<number> {
  const { rows } = await client.query<{ parked: string }>({
    name: 'outbox-count-parked',
    text: `SELECT count(*) AS parked FROM public.core_outboxmessage
           WHERE status = 'failed' AND ${shardExpression(shards)} = $1`,
    values: [shard],
  });
  return Number(rows[0]!.parked);
}
