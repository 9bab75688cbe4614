import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type pg from 'pg';
import { complete, hashPayload, release, renew } from '../../src/database/idempotency.ts';
import { connectForPurge, purgeBatch } from '../../src/database/maintenance.ts';
import { purgeStart } from '../../src/domain/maintenance.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { claim, expire, hold } from '../support/idempotency.ts';

const purge = async (client: pg.ClientBase, dryRun = false): Promise<number> => {
  const batch = { stage: 'idempotency', from: purgeStart().from } as const;
  return (await purgeBatch(client, batch, { dryRun, retentionDays: 7 })).rows;
};

const lost = {
  code: 'idempotency_lost',
  message: /^key "k" of operation "op" .*belongs to holder .* no more$/,
};

describe('A claim', () => {
  let database: TestDatabase;
  let client: pg.Client;
  before(async () => {
    database = await outboxDatabase();
    client = database.client;
  });
  beforeEach(() => client.query('TRUNCATE core_idempotencyrecord'));
  after(() => database[Symbol.asyncDispose]());

  const record = async () => (await client.query('SELECT * FROM core_idempotencyrecord')).rows[0];

  test('goes to one caller; the others are told until when it is held, and then the result', async () => {
    const held = await hold(client);
    const met = await claim(client);
    assert.ok(met.outcome === 'in_progress');
    assert.deepEqual(met.until, (await record()).expires_at);
    await complete(client, held, { paid: [1, null] });
    assert.deepEqual(await claim(client), { outcome: 'completed', result: { paid: [1, null] } });
    assert.deepEqual(await claim(client), { outcome: 'completed', result: { paid: [1, null] } });
  });

  test('is refused for another operation or payload under the same key, which names no payload', async () => {
    const payloadHash = hashPayload({ card: 4711 });
    const held = await hold(client, { payloadHash });
    for (const state of ['in progress', 'completed']) {
      await assert.rejects(claim(client, { operation: 'other' }), {
        code: 'idempotency_mismatch',
        message: 'key "k" of operation "other" is in use for operation "op"',
      });
      await assert.rejects(claim(client, { payloadHash: hashPayload({ card: 4712 }) }), {
        code: 'idempotency_mismatch',
        message: 'key "k" of operation "op" is in use with another payload',
      });
      const met = await claim(client, { payloadHash: hashPayload({ card: 4711 }) });
      assert.equal(met.outcome, state === 'completed' ? 'completed' : 'in_progress');
      await complete(client, held, undefined);
    }
  });

  test('goes to the next caller, of whatever operation and payload, when the record has expired', async () => {
    const held = await hold(client, { payloadHash: 'a' });
    await complete(client, held, 'old');
    await expire(client);
    const next = await hold(client, { operation: 'other', payloadHash: 'b' });
    assert.equal((await claim(client, { operation: 'other', payloadHash: 'b' })).outcome, 'in_progress');
    await complete(client, next, null);
    assert.deepEqual(await claim(client, { operation: 'other' }), { outcome: 'completed', result: null });
  });

  test('can be taken over when the hold is over, and its first holder can write no more', async () => {
    const first = await hold(client);
    await expire(client);
    const second = await hold(client);
    await assert.rejects(renew(client, first), lost);
    await assert.rejects(complete(client, first, 'first'), lost);
    await release(client, first);
    assert.equal((await claim(client)).outcome, 'in_progress');
    await renew(client, second);
    await complete(client, second, 'second');
    await assert.rejects(complete(client, first, 'first'), lost);
    await release(client, first);
    assert.deepEqual(await claim(client), { outcome: 'completed', result: 'second' });
  });

  test('whose hold is over is still its own as long as nobody has taken it', async () => {
    const held = await hold(client);
    await expire(client);
    await renew(client, held);
    assert.equal((await claim(client)).outcome, 'in_progress');
    await expire(client);
    await complete(client, held, 'late');
    assert.deepEqual(await claim(client), { outcome: 'completed', result: 'late' });
  });

  test('is completed once: again it changes nothing, and neither renewing nor releasing undoes it', async () => {
    const held = await hold(client);
    await complete(client, held, 1);
    await complete(client, held, 2);
    await assert.rejects(renew(client, held), lost);
    await release(client, held);
    assert.deepEqual(await claim(client), { outcome: 'completed', result: 1 });
  });

  test('that is released can be made again at once', async () => {
    const held = await hold(client);
    await release(client, held);
    assert.equal(await record(), undefined);
    await hold(client);
    await assert.rejects(complete(client, held, 1), lost);
  });

  test('holds for as long as asked, by the clock of Postgres, and so is its result kept', async () => {
    const seconds = async () => {
      const { rows } = await client.query(
        'SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 AS left FROM core_idempotencyrecord',
      );
      return rows[0].left;
    };
    const within = async (most: number) => {
      const left = await seconds();
      assert.ok(left <= most && left > most - 60, `${left} s are left of ${most}`);
    };
    const held = await hold(client, { holdSeconds: 600, keepSeconds: 7_200 });
    await within(600);
    await client.query(`UPDATE core_idempotencyrecord SET expires_at = now(), own_expires_at = now()`);
    await renew(client, held);
    await within(600);
    await complete(client, held, null);
    await within(7_200);
  });

  test('inside a transaction that has lasted long counts from the claim on', async () => {
    await client.query('BEGIN');
    await eventually('the transaction to have lasted', async () => {
      const { rows } = await client.query(`SELECT clock_timestamp() - now() > interval '0.3 s' AS old`);
      return rows[0].old;
    });
    await hold(client, { holdSeconds: 1 });
    const { rows } = await client.query(
      "SELECT expires_at > now() + interval '1.29 s' AS full FROM core_idempotencyrecord",
    );
    await client.query('ROLLBACK');
    assert.deepEqual(rows, [{ full: true }]);
  });

  for (const end of ['COMMIT', 'ROLLBACK'] as const) {
    test(`waits for another that is made in a transaction, which ends by ${end}`, async () => {
      const [one, other] = [await database.connect(), await database.connect()];
      await one.query('BEGIN');
      await hold(one);
      const waiting = claim(other);
      await eventually('the second to wait for the first', async () => {
        const { rows } = await client.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        );
        return rows.length === 1;
      });
      await one.query(end);
      assert.equal((await waiting).outcome, end === 'COMMIT' ? 'in_progress' : 'run');
    });
  }

  test('of a key that has not expired only reads, and waits for nobody', async () => {
    const held = await hold(client);
    const other = await database.connect();
    await other.query('BEGIN');
    await other.query('SELECT FROM core_idempotencyrecord FOR UPDATE');
    assert.equal((await claim(client)).outcome, 'in_progress');
    await complete(other, held, 1);
    await other.query('COMMIT');
    await other.query('BEGIN');
    await other.query('SELECT FROM core_idempotencyrecord FOR UPDATE');
    assert.equal((await claim(client)).outcome, 'completed');
    await other.query('ROLLBACK');
  });

  test('names what cannot be claimed, and what cannot be stored; the key is still held then', async () => {
    await assert.rejects(claim(client, { key: '', holdSeconds: 0 }), {
      code: 'invalid_input',
      message: /^key must be .*; holdSeconds must be .*/,
    });
    const held = await hold(client);
    for (const [result, message] of [
      ['x'.repeat(1_000_001), /^result must be at most 1000000 bytes.* "k"/],
      [{ secret: '\0' }, /^result must not contain NUL/],
      [1n, /^result must be JSON/],
    ] as const) {
      await assert.rejects(complete(client, held, result), { code: 'invalid_input', message });
    }
    assert.throws(() => hashPayload(1n), { code: 'invalid_input', message: /^payload must be JSON/ });
    assert.equal((await claim(client)).outcome, 'in_progress');
  });

  test('is never deleted by a purge while it is held, whenever it was made', async () => {
    const purger = await connectForPurge(database.url);
    try {
      const held = await hold(client, { holdSeconds: 1 });
      await expire(client);
      await renew(client, { ...held, holdSeconds: 60 });
      assert.equal(await purge(purger, true), 0);
      assert.equal(await purge(purger), 0);
      await renew(client, held);
      await expire(client);
      assert.equal(await purge(purger, true), 1);
      assert.equal(await purge(purger), 1);
      await assert.rejects(complete(client, held, 1), lost);
    } finally {
      await purger.end();
    }
  });

  test('over a record that a purge is about to delete is kept', async () => {
    const purger = await connectForPurge(database.url);
    const keys = Array.from({ length: 20 }, (_, n) => `k${n}`);
    try {
      for (let round = 0; round < 30; round += 1) {
        await client.query(
          `INSERT INTO core_idempotencyrecord (id, idempotency_key, operation_type, created_at, expires_at)
           SELECT gen_random_uuid(), key, 'op', now(), now() - interval '1 s' FROM unnest($1::text[]) AS key
           ON CONFLICT (idempotency_key) DO UPDATE SET expires_at = excluded.expires_at`,
          [keys],
        );
        const purging = purge(purger);
        for (const key of keys) await renew(client, await hold(client, { key }));
        await purging;
      }
    } finally {
      await purger.end();
    }
  });
});
