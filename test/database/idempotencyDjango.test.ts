import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type pg from 'pg';
import { complete, release, renew } from '../../src/database/idempotency.ts';
import { migrate } from '../../src/database/migrate.ts';
import { type DjangoDatabase, djangoDatabase } from '../support/django.ts';
import { claim, djangoCheckAndSet, djangoStore, expire, hold } from '../support/idempotency.ts';

const lost = { code: 'idempotency_lost' };

describe("Django's records and ours", () => {
  let database: DjangoDatabase;
  let client: pg.Client;
  before(async () => {
    database = await djangoDatabase();
    await migrate(database.url);
    client = database.client;
    // Both sides have a neighbour's rights on the tables, and no other.
    await client.query(`SET ROLE ${database.roles.neighbour}`);
  });
  beforeEach(() => client.query('DELETE FROM core_idempotencyrecord'));
  after(() => database[Symbol.asyncDispose]());

  const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000);

  test('Django finds a key that we hold, then our result, and resets it when it has expired', async () => {
    const held = await hold(client);
    assert.deepEqual(await djangoCheckAndSet(client), { isNew: false, result: null });
    await complete(client, held, { ours: 1 });
    assert.deepEqual(await djangoCheckAndSet(client), { isNew: false, result: { ours: 1 } });
    await expire(client);
    assert.deepEqual(await djangoCheckAndSet(client), { isNew: true, result: null });
    assert.deepEqual(await djangoCheckAndSet(client), { isNew: false, result: null });
  });

  test('we find a key that Django set, completed with its result, until it expires', async () => {
    await djangoCheckAndSet(client);
    assert.deepEqual(await claim(client), { outcome: 'completed', result: null });
    await djangoStore(client, { theirs: 1 });
    assert.deepEqual(await claim(client, { payloadHash: 'a' }), {
      outcome: 'completed',
      result: { theirs: 1 },
    });
    await assert.rejects(claim(client, { operation: 'other' }), { code: 'idempotency_mismatch' });
    await expire(client);
    const held = await hold(client);
    await complete(client, held, 'ours');
    assert.deepEqual(await djangoCheckAndSet(client), { isNew: false, result: 'ours' });
  });

  test('a key that Django takes when our hold is over is lost to its holder, and what it held is forgotten', async () => {
    const held = await hold(client, { payloadHash: 'a' });
    await expire(client);
    assert.equal((await djangoCheckAndSet(client)).isNew, true);
    await assert.rejects(renew(client, held), lost);
    await assert.rejects(complete(client, held, 'ours'), lost);
    await release(client, held);
    await djangoStore(client, 'theirs');
    assert.deepEqual(await claim(client, { payloadHash: 'b' }), { outcome: 'completed', result: 'theirs' });
  });

  test('a key that Django takes after our result has expired is not compared with our payload', async () => {
    await complete(client, await hold(client, { payloadHash: 'a' }), 'ours');
    await expire(client);
    await djangoCheckAndSet(client);
    assert.deepEqual(await claim(client, { payloadHash: 'b' }), { outcome: 'completed', result: null });
  });

  test('a Django whose clock is a day ahead takes a key that we hold: the holder is told, and stores nothing', async () => {
    const held = await hold(client);
    assert.equal((await djangoCheckAndSet(client, 'k', 'op', hoursAgo(-48))).isNew, true);
    await assert.rejects(complete(client, held, 'ours'), lost);
  });

  test("a row that Django deletes and makes anew is Django's", async () => {
    const held = await hold(client);
    await client.query('DELETE FROM "core_idempotencyrecord" WHERE "idempotency_key" = $1', ['k']);
    await djangoCheckAndSet(client);
    await assert.rejects(renew(client, held), lost);
    assert.equal((await claim(client)).outcome, 'completed');
  });
});
