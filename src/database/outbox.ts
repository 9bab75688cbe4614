import { randomUUID } from 'node:crypto';
import { OrchestratorError } from '../domain/errors.ts';
import { type OutboxMessage, outboxMessageFaults } from '../domain/outboxMessage.ts';
import { shardExpression } from './deployment.ts';
import type { Queryable } from './postgres.ts';

export interface Enqueued {
  /** The row's id: of the new row, or of the one that holds this idempotency key already. */
  id: string;
  isNew: boolean;
}

/**
 * Writes a message to the outbox inside the caller's own transaction: it is delivered if and only if that commits.
 * Sent twice under one idempotency key, the message is stored once, and the second call says so.
 * @throws OrchestratorError invalid_message, naming each field at fault; the transaction is still usable.
 */
export async function enqueue(client: Queryable, message: OutboxMessage): Promise<Enqueued> {
  const faults = outboxMessageFaults(message);
  if (faults.length > 0) throw new OrchestratorError('invalid_message', faults.join('; '));
  const { idempotencyKey, topic, key = null, payload, headers = {}, maxAttempts = 5 } = message;
  // Every NOT NULL column is given: Django keeps its defaults in Python, not in the database.
  const inserted = await client.query<{ id: string }>(
    `INSERT INTO public.core_outboxmessage
       (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
     VALUES ($1, $2, $3, $4, $5, $6, now(), 0, $7, 'pending')
     ON CONFLICT (idempotency_key) DO NOTHING RETURNING id`,
    [randomUUID(), idempotencyKey, topic, key, JSON.stringify(payload), JSON.stringify(headers), maxAttempts],
  );
  if (inserted.rows[0]) return { id: inserted.rows[0].id, isNew: true };
  const existing = await client.query<{ id: string }>(
    'SELECT id FROM public.core_outboxmessage WHERE idempotency_key = $1',
    [idempotencyKey],
  );
  if (existing.rows[0]) return { id: existing.rows[0].id, isNew: false };
  throw new OrchestratorError(
    'invalid_message',
    `idempotencyKey ${JSON.stringify(idempotencyKey)} was taken by a transaction that this one cannot see: retry in a new transaction`,
  );
}

export interface OutboxBacklog {
  shard: number;
  pending: number;
  oldestSeconds: number;
  parked: number;
}

/** Counting stops here: a gauge has to be cheap, and beyond this number only its growth matters. */
const COUNT_LIMIT = 100_000;

/** What waits in each shard; read from the partial indexes, so its cost grows with the backlog and not with the table. */
export async function readBacklog(client: Queryable, shards: number): Promise<OutboxBacklog[]> {
  const { rows } = await client.query<OutboxBacklog>(
    `SELECT shard, pending.count::int AS pending, parked.count::int AS parked,
       coalesce(greatest(0, extract(epoch FROM now() - oldest.created_at)), 0)::float8 AS "oldestSeconds"
     FROM generate_series(0, $1::int - 1) AS shard
     CROSS JOIN LATERAL (
       SELECT count(*) FROM (
         SELECT FROM public.core_outboxmessage
         WHERE status = 'pending' AND ${shardExpression(shards)} = shard LIMIT ${COUNT_LIMIT}
       ) AS waiting
     ) AS pending
     LEFT JOIN LATERAL (
       SELECT created_at FROM public.core_outboxmessage
       WHERE status = 'pending' AND ${shardExpression(shards)} = shard ORDER BY relay_seq LIMIT 1
     ) AS oldest ON true
     CROSS JOIN LATERAL (
       SELECT count(*) FROM public.core_outboxmessage WHERE status = 'failed' AND ${shardExpression(shards)} = shard
     ) AS parked
     ORDER BY shard`,
    [shards],
  );
  return rows;
}
