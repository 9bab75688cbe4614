import assert from 'node:assert/strict';
import { test } from 'node:test';
import type pg from 'pg';
import { MEMORY_CHANNEL, MemoryBook, readMemoryBacklog } from '../../src/database/memoryBook.ts';
import { queueMemories } from '../../src/database/pendingMemories.ts';
import { outboxDatabase } from '../support/database.ts';
import { insertMemories } from '../support/memories.ts';

const fill = (client: pg.Client, rows: number, synced: boolean) =>
  client.query(
    `INSERT INTO core_pendingmemory
       (id, idempotency_key, tenant_id, namespace, payload, created_at, synced, synced_at, sync_attempts)
     SELECT gen_random_uuid(), gen_random_uuid(), 'tenant-' || n % 500, 'wm', jsonb_build_object('n', n), now(), $2, now(), 0
     FROM generate_series(1, $1::int) AS n`,
    [rows, synced],
  );

/** Rows of the queue that were read from the table, by any way, and scans of the whole of it. */
async function reads(client: pg.Client): Promise<{ scans: number; rows: number }> {
  await client.query('SELECT pg_stat_force_next_flush()');
  await client.query('SELECT pg_stat_clear_snapshot()');
  const { rows } = await client.query(
    `SELECT seq_scan::int AS scans, (seq_tup_read + coalesce(idx_tup_fetch, 0))::int AS rows
     FROM pg_stat_user_tables WHERE relname = 'core_pendingmemory'`,
  );
  return rows[0];
}

test('a claim reads what it returns, however many memories are synced, and goes round the ring of tenants', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await fill(client, 100_000, true);
  await fill(client, 2_000, false);
  const owner = await database.connect();
  const book = await MemoryBook.takeOver(owner, 'test');
  const before = await reads(owner);
  const claimed = new Map<string, number>();
  let cursor = null as string | null;
  let claims = 0;
  do {
    const claim = await book.claim(cursor, []);
    cursor = claim.cursor;
    claims += 1;
    for (const { tenant } of claim.memories) claimed.set(tenant, (claimed.get(tenant) ?? 0) + 1);
  } while (cursor !== null);
  assert.equal(claimed.size, 500, 'every tenant has its turn');
  assert.ok([...claimed.values()].every((count) => count === 4));
  const after = await reads(owner);
  assert.equal(after.scans, before.scans, 'no scan of the table');
  // Each tenant's head is looked up beside its rows; payloads are in the rows.
  assert.ok(after.rows - before.rows <= 2_000 + 2 * 500 + claims, `${after.rows - before.rows} rows read`);
});

test('left out are tenants that are under way, those whose first memory is not due, and the dead', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const rows = ['a', 'a', 'b', 'b', 'c', 'd', 'e'].map((tenant, n) => ({ tenant, payload: { n } }));
  const ids = await insertMemories(client, rows);
  const book = await MemoryBook.takeOver(await database.connect(), 'test');
  await book.rejected([{ id: ids[2]!, reason: 'b waits from its first one on' }]);
  await client.query(
    `UPDATE core_pendingmemory SET next_attempt_at = now() + interval '1 hour' WHERE payload->>'n' = '1'`,
  );
  await client.query(`UPDATE core_pendingmemory SET dead_at = now() WHERE tenant_id = 'd'`);
  const { memories } = await book.claim(null, ['c']);
  assert.deepEqual(
    memories.map(({ tenant, payload }) => [tenant, JSON.parse(payload!).n]),
    [
      ['a', 0],
      ['e', 6],
    ],
  );
  const { pending, tenants } = await readMemoryBacklog(client);
  assert.deepEqual([pending, tenants[0]], [6, { tenant: 'a', pending: 2 }]);
});

test('the oldest is found however many memories other tenants have', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await fill(client, 100_001, false);
  await insertMemories(client, [{ tenant: 'zoe' }, { tenant: 'zoe' }]);
  await client.query(`
    UPDATE core_pendingmemory SET created_at = now() - interval '1 day'
    WHERE tenant_id = 'zoe' AND sync_seq = (SELECT min(sync_seq) FROM core_pendingmemory WHERE tenant_id = 'zoe')`);
  const { pending, oldestSeconds } = await readMemoryBacklog(client);
  assert.equal(pending, 100_000, 'counted no further');
  assert.ok(oldestSeconds >= 86_400, `${oldestSeconds} s`);
});

test('a claim of large memories is bounded by bytes, and always has the first', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const text = Array.from({ length: 60_000 }, (_, n) => (n * 7_919) % 99_991).join('');
  const large = { payload: { text } };
  await insertMemories(client, [
    ...Array.from({ length: 5 }, () => ({ tenant: 'a', ...large })),
    { tenant: 'b', payload: { text: text.repeat(4) } },
    { tenant: 'b', payload: {} },
  ]);
  const book = await MemoryBook.takeOver(await database.connect(), 'test');
  const { memories } = await book.claim(null, []);
  const counts = Map.groupBy(memories, ({ tenant }) => tenant);
  assert.deepEqual([counts.get('a')?.length, counts.get('b')?.length], [3, 1]);
});

test('writers wake the sync once a statement, and only while it waits', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const listener = await database.connect();
  let heard = 0;
  listener.on('notification', () => {
    heard += 1;
  });
  await listener.query(`LISTEN ${MEMORY_CHANNEL}`);
  const book = await MemoryBook.takeOver(await database.connect(), 'test');
  const said = async () => {
    // What was sent before the answer to this was heard before it.
    await listener.query('SELECT');
    return heard;
  };
  await insertMemories(client, [{ tenant: 'a' }]);
  assert.equal(await said(), 0);
  await book.setWaiting(true);
  await insertMemories(client, [{ tenant: 'a' }, { tenant: 'b' }]);
  assert.equal(await said(), 1);
  const memory = { tenant: 'c', namespace: 'wm', payload: {}, idempotencyKey: 'k' };
  await queueMemories(client, [memory]);
  await client.query(`UPDATE core_pendingmemory SET dead_at = now() WHERE idempotency_key = 'k'`);
  assert.equal(await said(), 2);
  await queueMemories(client, [memory]);
  assert.equal(await said(), 3, 'a revived memory is news as well');
  await book.setWaiting(false);
  await insertMemories(client, [{ tenant: 'a' }]);
  assert.equal(await said(), 3);
});
