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

export interface Queueing<Queued extends QueuedMemory> {
  /** How many are new or revived. */
  queued: number;
  /** Not queued: another tenant or namespace has their keys. */
  foreign: Queued[];
}

/** Why a memory is among the foreign ones. */
export const KEY_OF_ANOTHER = 'the idempotency key belongs to another tenant or namespace';

/**
 * Queues memories in the given order, by one INSERT, in the caller's transaction. A key that is there already is not
 * queued again, except that a memory which had become a dead letter is revived: pending again, with no attempts, with
 * the payload that is given now and in its old place. What Postgres refuses (NUL, too long a tenant) is thrown as pg has
 * it.
 */
export async function queueMemories<Queued extends QueuedMemory>(
  client: Queryable,
  memories: Queued[],
): Promise<Queueing<Queued>> {
  // One INSERT must not meet a key twice; the first counts, as it would in two.
  const unique = [
    ...new Map(memories.toReversed().map((memory) => [memory.idempotencyKey, memory])).values(),
  ];
  if (unique.length === 0) return { queued: 0, foreign: [] };
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
        WHERE memory.dead_at IS NOT NULL
          AND memory.tenant_id = EXCLUDED.tenant_id AND memory.namespace = EXCLUDED.namespace`,
    values: [
      unique.map(() => randomUUID()),
      unique.map(({ idempotencyKey }) => idempotencyKey),
      unique.map(({ tenant }) => tenant),
      unique.map(({ namespace }) => namespace),
      unique.map(({ payload }) => JSON.stringify(payload)),
    ],
  });
  return { queued: rowCount ?? 0, foreign: await foreignOf(client, memories) };
}

async function foreignOf<Queued extends QueuedMemory>(
  client: Queryable,
  memories: Queued[],
): Promise<Queued[]> {
  const { rows } = await client.query<{ key: string; tenant: string; namespace: string }>({
    name: 'memories-owners',
    text: `SELECT idempotency_key AS key, tenant_id AS tenant, namespace
           FROM public.core_pendingmemory WHERE idempotency_key = ANY($1::text[])`,
    values: [memories.map(({ idempotencyKey }) => idempotencyKey)],
  });
  const owners = new Map(rows.map((row) => [row.key, row]));
  return memories.filter(({ idempotencyKey, tenant, namespace }) => {
    const owner = owners.get(idempotencyKey);
    return owner !== undefined && (owner.tenant !== tenant || owner.namespace !== namespace);
  });
}
