import { describeRejection, type Rejection } from '../domain/outbox.ts';
import { MAX_BACKOFF_POWER } from '../domain/outboxDelivery.ts';
import { writeDeadLetters } from './deadLetters.ts';
import { shardExpression } from './deployment.ts';
import { AMONG_SEQS } from './outboxClaim.ts';
import type { Queryable } from './postgres.ts';

/** A pending row that Kafka definitely refuses. */
export interface Culprit {
  seq: string;
  rejection: Rejection;
}

/**
 * Spends an attempt of each culprit. With attempts left it is parked: status `failed`, the next one due after
 * 2^attempts seconds (the platform's own schedule), later rows of its topic and key held back. After the last one it
 * is `dead`, with its letter written in this same transaction. Returns how many died.
 */
export async function park(
  client: Queryable,
  shard: number,
  shards: number,
  culprits: Culprit[],
): Promise<number> {
  if (culprits.length === 0) return 0;
  const { rows } = await client.query<{ id: string; seq: string; topic: string; status: string }>(
    `UPDATE public.core_outboxmessage AS message
     SET attempts = least(attempts, 2147483646) + 1, last_error = culprit.reason,
         status = CASE WHEN attempts < max_attempts - 1 THEN 'failed' ELSE 'dead' END,
         failed_at = CASE WHEN attempts < max_attempts - 1 THEN failed_at ELSE now() END,
         next_retry_at = CASE WHEN attempts < max_attempts - 1
           THEN now() + make_interval(secs => 2 ^ least(attempts + 1, ${MAX_BACKOFF_POWER})) END
     FROM unnest($2::bigint[], $3::text[]) AS culprit (seq, reason)
     WHERE message.status = 'pending' AND ${shardExpression(shards)} = $1 AND message.relay_seq = culprit.seq
       AND message.relay_seq ${AMONG_SEQS}
     RETURNING message.id, message.relay_seq AS seq, message.topic, message.status`,
    [shard, culprits.map(({ seq }) => seq), culprits.map(({ rejection }) => describeRejection(rejection))],
  );
  const rejectionOf = new Map(culprits.map(({ seq, rejection }) => [seq, rejection]));
  const dead = rows.filter(({ status }) => status === 'dead');
  await writeDeadLetters(
    client,
    dead.map(({ id, seq, topic }) => {
      const { code, message } = rejectionOf.get(seq)!;
      return { id, topic, code, reason: message };
    }),
  );
  return dead.length;
}

/** A flood of parked rows comes back in portions, so that the rows beside it are not kept waiting. */
const RETRY_LIMIT = 500;
/** A row with a delivery workflow is that one's to try again. Where it does not (terminated, Temporal away), the relay does. */
const WORKFLOW_GRACE = '10 seconds';

/**
 * Puts parked rows whose next attempt is due back among the pending, and counts those that stay parked. As for the
 * platform's own publisher, a row without next_retry_at is due at once.
 */
export async function retryDue(client: Queryable, shard: number, shards: number): Promise<number> {
  const ours = `status = 'failed' AND ${shardExpression(shards)} = $1`;
  await client.query({
    name: 'outbox-retry-due',
    text: `UPDATE public.core_outboxmessage SET status = 'pending', next_retry_at = NULL
           WHERE status = 'failed' AND id IN (
             SELECT id FROM public.core_outboxmessage
             WHERE ${ours} AND coalesce(next_retry_at <= now(), true) AND (
               coalesce(next_retry_at <= now() - interval '${WORKFLOW_GRACE}', true) OR NOT EXISTS (
                 SELECT FROM orchestrator.outbox_delivery WHERE message_id = id AND started_at IS NOT NULL))
             LIMIT ${RETRY_LIMIT})`,
    values: [shard],
  });
  const { rows } = await client.query<{ parked: string }>({
    name: 'outbox-count-parked',
    text: `SELECT count(*) AS parked FROM public.core_outboxmessage WHERE ${ours}`,
    values: [shard],
  });
  return Number(rows[0]!.parked);
}
