import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { remember } from '../../src/database/remember.ts';
import type { Memory } from '../../src/domain/memoryFaults.ts';
import { SomaBrain } from '../../src/somabrain/client.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { countMemories, standInBrain } from '../support/memories.ts';

const queued = async ({ client }: TestDatabase) => {
  const { rows } = await client.query(
    `SELECT tenant_id, namespace, payload, idempotency_key, synced, sync_attempts
     FROM core_pendingmemory ORDER BY sync_seq`,
  );
  return rows;
};

test('is queued if and only if the caller commits, once for each key', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const memory = { tenant: 'a/b 🧠', payload: { b: 1, a: { d: [1, 2], c: null } } };
  await client.query('BEGIN');
  await remember(client, memory);
  await client.query('ROLLBACK');
  assert.deepEqual(await queued(database), []);
  const first = await remember(client, memory);
  const again = await remember(client, { ...memory, payload: { a: { c: null, d: [1, 2] }, b: 1 } });
  assert.equal(first.status, 'queued');
  assert.match(first.idempotencyKey, /^memory:a\/b 🧠:[0-9a-f]{16}$/);
  assert.deepEqual(again, first, 'the order of fields makes no other memory');
  const other = await remember(client, { ...memory, namespace: 'ltm' });
  assert.notEqual(other.idempotencyKey, first.idempotencyKey, 'another namespace is another memory');
  const own = await remember(client, { tenant: 'x', payload: {}, idempotencyKey: 'memory:x:7' });
  assert.equal(own.idempotencyKey, 'memory:x:7');
  assert.deepEqual(await queued(database), [
    {
      tenant_id: 'a/b 🧠',
      namespace: 'wm',
      payload: memory.payload,
      idempotency_key: first.idempotencyKey,
      synced: false,
      sync_attempts: 0,
    },
    {
      tenant_id: 'a/b 🧠',
      namespace: 'ltm',
      payload: memory.payload,
      idempotency_key: other.idempotencyKey,
      synced: false,
      sync_attempts: 0,
    },
    {
      tenant_id: 'x',
      namespace: 'wm',
      payload: {},
      idempotency_key: 'memory:x:7',
      synced: false,
      sync_attempts: 0,
    },
  ]);
});

test('direct: stored by SomaBrain, or queued if that fails or the tenant has others waiting', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await using brain = await standInBrain();
  const direct = new SomaBrain({ url: brain.url });
  const say = (number: number) => remember(client, { tenant: 't', payload: { number } }, { direct });
  assert.equal((await say(1)).status, 'stored');
  assert.equal((await countMemories(client)).pending, 0);
  brain.server.behave({ memories: 503 });
  assert.equal((await say(2)).status, 'queued');
  brain.server.behave({ memories: 'store' });
  assert.equal((await say(3)).status, 'queued', 'not past the one that waits');
  assert.equal(brain.shelf.stored.size, 1);
  const poison = await remember(client, { tenant: 'p', payload: { poison: true } }, { direct });
  assert.equal(poison.status, 'queued', 'what SomaBrain rejects is the sync’s to try again');
  assert.equal((await countMemories(client)).pending, 3);
});

test('a key of another tenant or namespace is refused, and tenants share no default key', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const memory = { tenant: 'a', payload: {}, idempotencyKey: 'own' };
  await client.query('BEGIN');
  await remember(client, memory);
  for (const other of [{ tenant: 'b' }, { namespace: 'ltm' }])
    await assert.rejects(remember(client, { ...memory, ...other }), { code: 'idempotency_mismatch' });
  assert.equal((await remember(client, memory)).status, 'queued', 'its own is known again');
  const { idempotencyKey } = await remember(client, { tenant: 'a:b', payload: {} });
  assert.match(idempotencyKey, /^memory:[0-9a-f]{64}:[0-9a-f]{16}$/);
  await client.query('COMMIT');
  assert.equal((await countMemories(client)).pending, 2);
});

suite('what cannot be remembered is refused in words, and the transaction goes on', () => {
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  const nested = (levels: number): object => (levels === 1 ? {} : { in: nested(levels - 1) });
  const bad: [string, unknown, RegExp][] = [
    ['no tenant', { payload: {} }, /^tenant must be a string of 1 to 255 characters/],
    ['an empty tenant', { tenant: ' ', payload: {} }, /^tenant must/],
    ['a tenant of 10 kB', { tenant: 'x'.repeat(10_000), payload: {} }, /got "xxx.*… \(10002 characters\)$/],
    ['NUL in the tenant', { tenant: 'a\0', payload: {} }, /without NUL/],
    [
      'a payload that is no object',
      { tenant: 'a', payload: [1] },
      /^payload must be a JSON object, got \[1\]$/,
    ],
    ['no payload', { tenant: 'a' }, /^payload must be a JSON object/],
    ['NUL in the payload', { tenant: 'a', payload: { t: 'a\0' } }, /must not contain NUL/],
    ['half a surrogate pair', { tenant: 'a', payload: { '\ud800': 1 } }, /half a surrogate pair/],
    ['a circle', { tenant: 'a', payload: circle }, /^payload must be JSON: Converting circular/],
    ['a bigint', { tenant: 'a', payload: { n: 1n } }, /^payload must be JSON/],
    ['2 MB', { tenant: 'a', payload: { t: 'x'.repeat(2_000_000) } }, /at most 600000 bytes.*got 2000008$/],
    ['100 levels', { tenant: 'a', payload: nested(100) }, /^payload cannot be kept: .*100 levels deep$/],
    ['too long a namespace', { tenant: 'a', namespace: 'n'.repeat(101), payload: {} }, /^namespace must/],
    ['too long a key', { tenant: 'a', payload: {}, idempotencyKey: 'k'.repeat(256) }, /^idempotencyKey must/],
  ];
  for (const [name, memory, expected] of bad) {
    test(name, async () => {
      const client = { query: () => assert.fail('nothing is sent to Postgres') } as never;
      await assert.rejects(remember(client, memory as Memory), (error: Error & { code: string }) => {
        assert.equal(error.code, 'invalid_message');
        assert.match(error.message, expected);
        return true;
      });
    });
  }

  test('99 levels can be kept', async () => {
    await using database = await outboxDatabase();
    const payload = nested(99) as Memory['payload'];
    assert.equal((await remember(database.client, { tenant: 'a', payload })).status, 'queued');
  });

  test('255 emoji are a tenant, with a key that fits', async () => {
    await using database = await outboxDatabase();
    const { idempotencyKey } = await remember(database.client, { tenant: '🧠'.repeat(255), payload: {} });
    assert.match(idempotencyKey, /^memory:[0-9a-f]{64}:[0-9a-f]{16}$/);
  });
});
