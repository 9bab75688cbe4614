import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { pino } from 'pino';
import {
  type MemorySyncDependencies,
  SomaBrainInsight,
  syncMemoriesUntil,
} from '../../src/activities/memorySync.ts';
import { MEMORY_CHANNEL } from '../../src/database/memoryBook.ts';
import { OutboxWakeUps } from '../../src/database/outboxWakeUps.ts';
import { describeError } from '../../src/domain/errors.ts';
import { SomaBrain } from '../../src/somabrain/client.ts';
import { type Behaviour, SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';

const logger = pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' });

/** A stand-in that listens, and a store that leads to it. */
export async function standInBrain(behaviour: Partial<Behaviour> = {}) {
  const server = new SomaBrainStandIn();
  await server.listen();
  server.behave(behaviour);
  return { server, shelf: server.shelf, url: server.url, [Symbol.asyncDispose]: () => server.close() };
}

export interface QueuedRow {
  tenant: string;
  namespace?: string;
  payload?: unknown;
  key?: string;
}

/** Queues memories as a foreign program would: plain SQL, the columns that Django knows. Returns the rows' ids. */
export async function insertMemories(client: pg.ClientBase, rows: QueuedRow[]): Promise<string[]> {
  const ids = rows.map(() => randomUUID());
  await client.query(
    `INSERT INTO core_pendingmemory
       (id, idempotency_key, tenant_id, namespace, payload, created_at, synced, synced_at, sync_attempts, last_error)
     SELECT id, key, tenant, namespace, payload, now(), false, NULL, 0, NULL
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[]) AS row (id, key, tenant, namespace, payload)`,
    [
      ids,
      rows.map(({ key }, index) => key ?? ids[index]),
      rows.map(({ tenant }) => tenant),
      rows.map(({ namespace = 'wm' }) => namespace),
      rows.map(({ payload = {} }) => JSON.stringify(payload)),
    ],
  );
  return ids;
}

/** `perTenant` numbered memories of each of `tenants` tenants, those of all tenants mixed. */
export const numberedMemories = (tenants: number, perTenant: number): QueuedRow[] =>
  Array.from({ length: tenants * perTenant }, (_, index) => ({
    tenant: `tenant-${index % tenants}`,
    payload: { number: Math.floor(index / tenants), text: 'what an agent should remember' },
  }));

/** Runs the sync in this process, without Temporal around it. */
export function startSync(
  database: { url: string },
  brainUrl: string,
  overrides: Partial<MemorySyncDependencies> = {},
  insight = new SomaBrainInsight(),
) {
  const wakeUps = new OutboxWakeUps(database.url, MEMORY_CHANNEL);
  const controller = new AbortController();
  const states: { state: string; lastError: string | null }[] = [];
  const counts = { synced: 0, rejected: 0, dead: 0 };
  const dependencies: MemorySyncDependencies = {
    databaseUrl: database.url,
    store: new SomaBrain({ url: brainUrl }),
    wakeUps,
    owner: 'test',
    logger,
    ...overrides,
  };
  const done = syncMemoriesUntil(dependencies, {
    stop: controller.signal,
    insight,
    onState: (state, lastError) => {
      const last = states.at(-1);
      if (last?.state !== state || last.lastError !== lastError) states.push({ state, lastError });
    },
    onSynced: (memories) => {
      counts.synced += memories;
    },
    onRejected: (memories, dead) => {
      counts.rejected += memories;
      counts.dead += dead;
    },
  }).finally(() => wakeUps.close());
  // Some tests want it to end; in all others this is why they wait in vain.
  done.catch((error: unknown) => console.log(`the memory sync ended: ${describeError(error)}`));
  const stop = async () => {
    controller.abort();
    await done;
  };
  return { states, counts, done, stop, [Symbol.asyncDispose]: () => stop().catch(() => {}) };
}

/** How many memories are synced, pending, dead. */
export async function countMemories(client: pg.ClientBase) {
  const { rows } = await client.query<{ synced: number; pending: number; dead: number; attempts: number }>(
    `SELECT count(*) FILTER (WHERE synced)::int AS synced, count(*) FILTER (WHERE dead_at IS NOT NULL)::int AS dead,
       count(*) FILTER (WHERE NOT synced AND dead_at IS NULL)::int AS pending,
       coalesce(sum(sync_attempts), 0)::int AS attempts
     FROM core_pendingmemory`,
  );
  return rows[0]!;
}
