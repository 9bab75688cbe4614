import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type pg from 'pg';
import { SomaBrainInsight } from '../../src/activities/memorySync.ts';
import { hurryMemories, MemoryBook, readMemoryBacklog } from '../../src/database/memoryBook.ts';
import { queueMemories } from '../../src/database/pendingMemories.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  countMemories,
  insertMemories,
  numberedMemories,
  standInBrain,
  startSync,
} from '../support/memories.ts';

const allSynced = (client: pg.ClientBase, synced: number) =>
  eventually(`${synced} memories`, async () => (await countMemories(client)).synced === synced);

function assertInOrder(said: Map<string, number[]>, perTenant: number): void {
  for (const [tenant, numbers] of said) {
    assert.deepEqual(
      numbers,
      Array.from({ length: perTenant }, (_, index) => index),
      tenant,
    );
  }
}

suite('memories reach SomaBrain', () => {
  for (const apis of [['batch', 'single'], ['single'], ['platform']] as const) {
    test(`each once, in order for each tenant: ${apis.join(' and ')}`, async () => {
      await using database = await outboxDatabase();
      await using brain = await standInBrain({ apis: [...apis] });
      await insertMemories(database.client, numberedMemories(20, 60));
      await using sync = startSync(database, brain.url);
      await allSynced(database.client, 1_200);
      assert.equal(brain.shelf.stored.size, 1_200);
      assert.equal(brain.shelf.duplicates, 0);
      assertInOrder(brain.shelf.byTenant('number'), 60);
      const { totals, pending } = await readMemoryBacklog(database.client);
      assert.deepEqual({ totals, pending }, { totals: { synced: 1_200, dead: 0 }, pending: 0 });
      assert.equal(sync.counts.synced, 1_200);
    });
  }

  test('those that arrive while it waits wake it, also as Django inserts them, also of other namespaces', async () => {
    await using database = await outboxDatabase();
    await using brain = await standInBrain();
    await using _sync = startSync(database, brain.url);
    const { client } = database;
    await eventually('the sync to wait', async () => {
      const { rows } = await client.query('SELECT waiting FROM orchestrator.memory_sync');
      return rows[0].waiting;
    });
    const mixed = ['wm', 'wm', 'ltm', 'wm'].map((namespace, number) => ({
      tenant: 'a/b 🧠',
      namespace,
      payload: { number },
    }));
    await insertMemories(client, mixed);
    await allSynced(client, 4);
    assertInOrder(brain.shelf.byTenant('number'), 4);
    assert.deepEqual(
      [...brain.shelf.stored.values()].map(({ namespace }) => namespace),
      ['wm', 'wm', 'ltm', 'wm'],
    );
  });

  test('a tenant with few memories is not kept waiting by one with many', async () => {
    await using database = await outboxDatabase();
    await using brain = await standInBrain({ delaySeconds: 0.01 });
    await insertMemories(database.client, numberedMemories(1, 5_000));
    await using _sync = startSync(database, brain.url);
    await eventually('the first ones', () => brain.shelf.stored.size > 0);
    await insertMemories(database.client, [{ tenant: 'zoe', payload: {} }]);
    await eventually('the small tenant', () => brain.shelf.byTenant('number').has('zoe'), { everyMs: 5 });
    assert.ok(brain.shelf.stored.size < 5_000, 'the large one is still at it');
    await allSynced(database.client, 5_001);
    const large = brain.shelf.byTenant<number>('number').get('tenant-0');
    assert.deepEqual(
      large,
      Array.from({ length: 5_000 }, (_, index) => index),
    );
  });
});

suite('an outage of SomaBrain', () => {
  for (const memories of [503, 401, 'html', 'stored, then drop'] as const) {
    test(`spends no attempt and stores nothing twice: ${memories}`, async () => {
      await using database = await outboxDatabase();
      await using brain = await standInBrain({ memories });
      await insertMemories(database.client, numberedMemories(5, 40));
      await using sync = startSync(database, brain.url);
      await eventually('the wait', () => sync.states.some(({ state }) => state === 'waiting'));
      assert.equal(brain.shelf.calls, 1, 'one probe');
      brain.server.behave({ memories: 'store' });
      await allSynced(database.client, 200);
      assertInOrder(brain.shelf.byTenant('number'), 40);
      assert.deepEqual(await countMemories(database.client), {
        synced: 200,
        pending: 0,
        dead: 0,
        attempts: 0,
      });
      assert.equal(sync.states.at(-1)?.lastError, null);
    });
  }

  test('that lasts longer than a run is not probed anew by the next one', async () => {
    await using database = await outboxDatabase();
    await using brain = await standInBrain({ memories: 503, retryAfter: 30 });
    await insertMemories(database.client, [{ tenant: 'a' }]);
    const insight = new SomaBrainInsight();
    const waits = { state: 'waiting', lastError: 'SomaBrain answers 503' };
    for (const _run of [1, 2]) {
      await using sync = startSync(database, brain.url, {}, insight);
      await eventually('the wait', () => sync.states.at(-1)?.state === 'waiting');
      await sync.stop();
      assert.deepEqual(sync.states.at(-1), waits);
      if (_run === 2) assert.deepEqual(sync.states, [waits]);
    }
    assert.equal(brain.shelf.calls, 1);
  });

  test('ends sooner for syncNow, and when the health cycle closes its gate', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await using brain = await standInBrain({ memories: 503, retryAfter: 30 });
    await client.query(
      `INSERT INTO orchestrator.health_gate (component, open_until) VALUES ('somabrain', now() + interval '1 hour')`,
    );
    await insertMemories(client, [{ tenant: 'a' }]);
    await using _sync = startSync(database, brain.url);
    await eventually('the first probe', () => brain.shelf.calls === 1);
    await hurryMemories(client);
    await eventually('the second probe', () => brain.shelf.calls === 2, { withinMs: 10_000 });
    brain.server.behave({ memories: 'store' });
    // The gate is seen open by the hints before it closes.
    await eventually('the hint', async () => {
      await client.query('UPDATE orchestrator.health_gate SET open_until = NULL');
      return (await countMemories(client)).synced === 1;
    });
  });
});

suite('one tenant that SomaBrain does not get on with', () => {
  test('a memory that breaks each call holds back its own tenant only, and the status says so', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await using brain = await standInBrain({ poison: 'breaks its call', delaySeconds: 0.005 });
    await insertMemories(client, [
      ...numberedMemories(4, 500),
      { tenant: 'bad', payload: { number: 0 } },
      { tenant: 'bad', payload: { poison: true } },
      { tenant: 'bad', payload: { number: 2 } },
    ]);
    await using sync = startSync(database, brain.url);
    await allSynced(client, 2_001);
    const waits = sync.states.filter(({ state }) => state === 'waiting');
    assert.ok(waits.length <= 2, `everybody waited ${waits.length} times`);
    await eventually(
      'the reason',
      () => sync.states.at(-1)?.lastError === 'tenant bad waits: SomaBrain answers 500',
    );
    assert.equal((await countMemories(client)).attempts, 0);
    brain.server.behave({ poison: 'taken' });
    await allSynced(client, 2_003);
    await eventually('no reason', () => sync.states.at(-1)?.lastError === null);
  });

  test('one that it says to be busy with is in the status', async () => {
    await using database = await outboxDatabase();
    await using brain = await standInBrain({ memories: 425 });
    await insertMemories(database.client, [{ tenant: 'a' }]);
    await using sync = startSync(database, brain.url);
    await eventually(
      'the reason',
      () => sync.states.at(-1)?.lastError === 'tenant a waits: SomaBrain answers 425',
    );
    brain.server.behave({ memories: 'store' });
    await allSynced(database.client, 1);
  });
});

suite('a memory that SomaBrain rejects', () => {
  test('holds back its own tenant only, and becomes a dead letter with its payload, once', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await using brain = await standInBrain();
    const [id] = await insertMemories(client, [
      { tenant: 'bad', payload: { poison: true, n: 1 }, key: 'memory:bad:1' },
    ]);
    await insertMemories(client, [...numberedMemories(3, 10)]);
    await using sync = startSync(database, brain.url);
    await allSynced(client, 30);
    const due = await client.query(
      `SELECT sync_attempts, last_error, next_attempt_at > now() AS due_later FROM core_pendingmemory WHERE id = $1`,
      [id],
    );
    assert.deepEqual(due.rows, [
      { sync_attempts: 1, last_error: 'SomaBrain answers 422: poison', due_later: true },
    ]);
    await insertMemories(client, [{ tenant: 'bad', payload: { number: 2 } }]);
    await hasteUntilDead(client, id!);
    await allSynced(client, 31);
    assert.equal(sync.counts.dead, 1);
    const letters = await client.query(
      `SELECT original_topic, idempotency_key, payload, error_type, error_message, attempts, partition_key, resolved
       FROM core_deadlettermessage`,
    );
    assert.deepEqual(letters.rows, [
      {
        original_topic: 'somabrain.memory.remember',
        idempotency_key: 'memory:bad:1',
        payload: { memory_id: id, tenant_id: 'bad', namespace: 'wm', payload: { poison: true, n: 1 } },
        error_type: 'memory_rejected',
        error_message: 'SomaBrain answers 422: poison',
        attempts: 5,
        partition_key: 'bad',
        resolved: false,
      },
    ]);
    const messages = await client.query(
      `SELECT topic, partition_key, payload->>'message_id' AS id FROM core_outboxmessage`,
    );
    assert.deepEqual(messages.rows, [{ topic: 'somabrain.memory.remember.dlq', partition_key: 'bad', id }]);
    const { totals } = await readMemoryBacklog(client);
    assert.deepEqual(totals, { synced: 31, dead: 1 });
  });

  test('is revived by being queued again, and stored once the cause is gone', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await using brain = await standInBrain();
    const memory = {
      tenant: 'bad',
      namespace: 'wm',
      payload: { poison: true },
      idempotencyKey: 'memory:bad:1',
    };
    assert.equal((await queueMemories(client, [memory, memory])).queued, 1);
    await using _sync = startSync(database, brain.url);
    const { rows } = await client.query('SELECT id FROM core_pendingmemory');
    await hasteUntilDead(client, rows[0].id);
    brain.server.behave({ poison: 'taken' });
    const foreign = { ...memory, tenant: 'other', payload: { stolen: true } };
    assert.deepEqual(await queueMemories(client, [foreign]), { queued: 0, foreign: [foreign] });
    assert.deepEqual((await countMemories(client)).dead, 1, 'it is revived for its own tenant only');
    assert.equal((await queueMemories(client, [memory])).queued, 1);
    await allSynced(client, 1);
    assert.deepEqual(await queueMemories(client, [memory]), { queued: 0, foreign: [] });
    assert.equal(brain.shelf.stored.size, 1);
  });

  test('one that is too large for any call is rejected without being read', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await using brain = await standInBrain();
    const payload = { text: 'x'.repeat(4_300_000) };
    const [id] = await insertMemories(client, [{ tenant: 'big', payload }]);
    await insertMemories(client, [{ tenant: 'other', payload: { text: 'y'.repeat(2_000_000) } }]);
    await using _sync = startSync(database, brain.url);
    await allSynced(client, 1);
    const { rows } = await client.query('SELECT last_error FROM core_pendingmemory WHERE id = $1', [id]);
    assert.match(rows[0].last_error, /4300012 bytes: at most 4194304 are sent/);
  });
});

/** Makes each next attempt due at once. */
async function hasteUntilDead(client: pg.ClientBase, id: string): Promise<void> {
  await eventually('the memory to be dead', async () => {
    const { rows } = await client.query(
      `UPDATE core_pendingmemory SET next_attempt_at = NULL WHERE id = $1 RETURNING dead_at`,
      [id],
    );
    return rows[0].dead_at;
  });
}

suite('two at once', () => {
  test('the one that was replaced marks nothing any more and ends', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await using brain = await standInBrain({ delaySeconds: 0.2 });
    await insertMemories(client, numberedMemories(4, 50));
    await using zombie = startSync(database, brain.url);
    await eventually('its first call', () => brain.shelf.calls > 0);
    await using _sync = startSync(database, brain.url);
    await assert.rejects(zombie.done, { code: 'relay_fenced' });
    await allSynced(client, 200);
    assertInOrder(brain.shelf.byTenant('number'), 50);
    assert.equal((await readMemoryBacklog(client)).totals.synced, 200, 'each is counted once');
  });

  test('a replaced owner is refused whatever it writes', async () => {
    await using database = await outboxDatabase();
    const [id] = await insertMemories(database.client, [{ tenant: 'a' }]);
    const former = await MemoryBook.takeOver(await database.connect(), 'former');
    await MemoryBook.takeOver(await database.connect(), 'latter');
    await assert.rejects(former.synced([id!]), { code: 'relay_fenced' });
    await assert.rejects(former.rejected([{ id: id!, reason: 'x' }]), { code: 'relay_fenced' });
    await assert.rejects(former.setWaiting(true), { code: 'relay_fenced' });
    assert.deepEqual(await countMemories(database.client), { synced: 0, pending: 1, dead: 0, attempts: 0 });
  });
});
