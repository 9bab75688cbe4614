import { randomUUID } from 'node:crypto';
import type { Queryable } from './postgres.ts';

/** A memory that is to reach SomaBrain, in the order of its tenant. */
export interface QueuedMemory {
  tenant: string;
  namespace: string;
  payload: Record<string, unknown>;
  /** At most 255 characters; SomaBrain stores a memory once by it. */
  idempotencyKey: string;
}

/**
 * Queues memories in the given order, by one INSERT, in the caller's transaction. A key that is there already is not
 * queued again, except that a memory which had become a dead letter is revived: pending again, with no attempts, with
 * the payload that is given now and in its old place. Returns how many are new or revived. What Postgres refuses (NUL,
 * too long a tenant) is thrown as pg has it.
 */
export async function queueMemories(client: Queryable, memories: QueuedMemory[]): Promise<number> {
  // One INSERT must not meet a key twice; the first counts, as it would in two.
  const unique = [
    ...new Map(memories.toReversed().map((memory) => [memory.idempotencyKey, memory])).values(),
  ];
  if (unique.length === 0) return 0;
  unique.reverse();
  const { rowCount } = await client.query({
    name: 'memories-queue',
    // Every NOT NULL column is given: Django keeps its defaults in Python, not in the database.
    text: `
      INSERT INTO public.core_pendingmemory AS memory
        (id, idempotency_key, tenant_id, namespace, payload, created_at, synced, sync_attempts)
      SELECT id, key, tenant, namespace, payload, now(), false, 0
      FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[])
        WITH ORDINALITY AS queued (id, key, tenant, namespace, payload, place)
      ORDER BY place
      ON CONFLICT (idempotency_key) DO UPDATE
        SET dead_at = NULL, next_attempt_at = NULL, sync_attempts = 0, payload = EXCLUDED.payload
        WHERE memory.dead_at IS NOT NULL`,
    values: [
      unique.map(() => randomUUID()),
      unique.map(({ idempotencyKey }) => idempotencyKey),
      unique.map(({ tenant }) => tenant),
      unique.map(({ namespace }) => namespace),
      unique.map(({ payload }) => JSON.stringify(payload)),
    ],
  });
  return rowCount ?? 0;
}
