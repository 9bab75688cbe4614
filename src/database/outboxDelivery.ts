import type pg from 'pg';
import type { ParkedMessage } from '../domain/outboxDelivery.ts';
import { writeDeadLetters } from './deadLetters.ts';
import { shardExpression } from './deployment.ts';
import { WAKE_UP } from './outboxWakeUps.ts';
import { inTransaction, type Queryable } from './postgres.ts';

type MessageRow = Omit<ParkedMessage, 'nextRetryAt'> & { nextRetryAt: Date | null };

/** Where people park a message for ever, by 'infinity' for example, its next attempt is in ten years. */
const PLANNED = `CASE WHEN next_retry_at IS NOT NULL
  THEN greatest(least(next_retry_at, now() + interval '10 years'), 'epoch') END`;

/** One row of the outbox as it stands; undefined where there is none. */
export async function readMessage(client: Queryable, id: string): Promise<ParkedMessage | undefined> {
  const { rows } = await client.query<MessageRow>(
    `SELECT id, topic, partition_key AS key, status, attempts, max_attempts AS "maxAttempts", last_error AS "lastError",
       planned AS "nextRetryAt",
       coalesce(greatest(0, extract(epoch FROM planned - clock_timestamp())), 0)::float8 AS "secondsToRetry"
     FROM (SELECT *, ${PLANNED} AS planned FROM public.core_outboxmessage WHERE id = $1) AS message`,
    [id],
  );
  const [row] = rows;
  return row && { ...row, nextRetryAt: row.nextRetryAt?.toISOString() ?? null };
}

/**
 * Asks the shard's relay for the next attempt of a parked row. Without next_retry_at it is due at once, although it has a
 * delivery workflow.
 */
export async function requestAttempt(client: Queryable, id: string): Promise<void> {
  await client.query(
    `UPDATE public.core_outboxmessage SET next_retry_at = NULL WHERE id = $1 AND status = 'failed'`,
    [id],
  );
  await client.query(WAKE_UP);
}

/** Makes the next attempt of a parked row due now. */
export async function hurryMessage(client: Queryable, id: string): Promise<void> {
  await client.query(
    `UPDATE public.core_outboxmessage SET next_retry_at = now() WHERE id = $1 AND status = 'failed'`,
    [id],
  );
}

/**
 * Gives up a parked row: it becomes `dead`, with its letter. A pending row is left alone, because it may be in a batch
 * on its way: only its relay knows. Returns whether it was given up.
 */
export async function discardMessage(client: pg.ClientBase, id: string): Promise<boolean> {
  return inTransaction(client, async () => {
    const { rows } = await client.query<{ topic: string; last_error: string | null }>(
      `UPDATE public.core_outboxmessage SET status = 'dead', failed_at = now(), next_retry_at = NULL
       WHERE id = $1 AND status = 'failed' RETURNING topic, last_error`,
      [id],
    );
    const dead = rows.map(({ topic, last_error }) => ({
      id,
      topic,
      code: 'discarded' as const,
      reason: `discarded by a person; before that: ${last_error ?? 'no error'}`,
    }));
    await writeDeadLetters(client, dead);
    await client.query(WAKE_UP);
    return dead.length > 0;
  });
}

/** Of the delivery workflows of a deployment at most so many run at once. The other parked rows are tried again by next_retry_at. */
export const MAX_DELIVERIES = 20;

/**
 * Chooses the parked rows of a shard that get a delivery workflow, as far as there is room, and returns the ids of
 * those whose workflow is still to be started. Asked again until `deliveryStarted` is told.
 */
export function chooseDeliveries(client: pg.ClientBase, shard: number, shards: number): Promise<string[]> {
  return inTransaction(client, async () => {
    // One shard chooses at a time, so that all of them together stay within the limit.
    await client.query('LOCK TABLE orchestrator.outbox_delivery IN SHARE ROW EXCLUSIVE MODE');
    await client.query(
      `DELETE FROM orchestrator.outbox_delivery AS delivery WHERE NOT EXISTS (
         SELECT FROM public.core_outboxmessage WHERE id = delivery.message_id AND status IN ('pending', 'failed'))`,
    );
    await client.query(
      `INSERT INTO orchestrator.outbox_delivery (message_id)
       SELECT id FROM public.core_outboxmessage AS message
       WHERE status = 'failed' AND ${shardExpression(shards)} = $1
         AND NOT EXISTS (SELECT FROM orchestrator.outbox_delivery WHERE message_id = message.id)
       LIMIT (SELECT greatest(0, ${MAX_DELIVERIES} - count(*)) FROM orchestrator.outbox_delivery)`,
      [shard],
    );
    const { rows } = await client.query<{ id: string }>(
      `SELECT message_id AS id FROM orchestrator.outbox_delivery AS delivery
       JOIN public.core_outboxmessage ON id = message_id
       WHERE started_at IS NULL AND ${shardExpression(shards)} = $1`,
      [shard],
    );
    return rows.map(({ id }) => id);
  });
}

export async function deliveryStarted(client: Queryable, id: string): Promise<void> {
  await client.query('UPDATE orchestrator.outbox_delivery SET started_at = now() WHERE message_id = $1', [
    id,
  ]);
}
