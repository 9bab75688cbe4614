import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type pg from 'pg';
import { claimQuery, FROM_THE_START } from '../../src/database/outboxClaim.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { composeBatch } from '../../src/domain/outbox.ts';
import { outboxDatabase } from '../support/database.ts';
import { ALL, begun, Deliveries, insert, SHARD } from '../support/deliveries.ts';

const isSet = ({ floor }: Deliveries) => floor.seq !== FROM_THE_START;

describe('The floor of the claims', () => {
  test('it rises to what was delivered, at once if nobody writes', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    await insert(database.client, 'a', 'b', null);
    const rows = await relay.deliver();
    await relay.floor.raise();
    assert.equal(relay.floor.seq, rows.at(-1)!.seq);
    await insert(database.client, 'a');
    assert.equal((await relay.assertNothingMissed()).length, 1);
  });

  for (const end of ['COMMIT', 'ROLLBACK']) {
    test(`it waits for a transaction that has a lower number, and rises after its ${end}`, async () => {
      await using database = await outboxDatabase(1);
      const relay = await Deliveries.on(database);
      const late = await begun(database);
      await insert(late, 'a');
      await insert(database.client, 'b');
      const [before] = await relay.deliver();
      await relay.floor.raise();
      await relay.floor.raise();
      assert.ok(!isSet(relay));

      // A writer that began later is not waited for.
      const later = await begun(database);
      await insert(later, 'c');
      await late.query(end);
      // The first row of the key goes before the second, though the second was committed by the time of the claim.
      await insert(database.client, 'a');
      await relay.floor.raise();
      const keys = (await relay.assertNothingMissed()).map(({ key }) => key);
      assert.deepEqual(keys, end === 'COMMIT' ? ['a', 'a'] : ['a']);
      assert.ok(isSet(relay));
      assert.equal(BigInt(relay.floor.seq) < BigInt(before!.seq), end === 'COMMIT');
      await relay.deliver();
      await relay.floor.raise();
      await later.query('COMMIT');
      assert.equal((await relay.assertNothingMissed()).length, 1);
    });
  }

  test('a transaction that only read, or wrote elsewhere, is not waited for', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    const reader = await begun(database);
    await reader.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM core_outboxmessage');
    const elsewhere = await begun(database);
    await elsewhere.query(
      `UPDATE orchestrator.deployment SET created_at = now(); SELECT FROM core_outboxmessage`,
    );
    await insert(database.client, 'a');
    const [row] = await relay.deliver();
    await relay.floor.raise();
    assert.equal(relay.floor.seq, row!.seq);
  });

  test('rows held back below it come as soon as the row that holds them back is parked no more', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    await insert(database.client, 'a');
    const [culprit] = await relay.deliver(ALL, 'failed');
    await insert(database.client, 'a', 'b', 'a');
    await relay.deliver();
    await relay.floor.raise();
    assert.notEqual(relay.floor.parked, '0');
    assert.ok(BigInt(relay.floor.seq) > BigInt(culprit!.seq));
    assert.deepEqual(await relay.assertNothingMissed(), []);
    const releases = [`UPDATE core_outboxmessage SET status = 'pending'`, `DELETE FROM core_outboxmessage`];
    for (const [index, release] of releases.entries()) {
      await relay.client
        .query('SAVEPOINT release')
        .catch(() => relay.client.query('BEGIN; SAVEPOINT release'));
      await relay.client.query(`${release} WHERE id = $1`, [culprit!.id]);
      const keys = (await relay.claim()).map(({ key }) => key);
      assert.deepEqual(keys, index === 0 ? ['a', 'a', 'a'] : ['a', 'a']);
      await relay.client.query('ROLLBACK TO release');
    }
    await relay.client.query('ROLLBACK');
  });

  test('there is none while numbers are drawn out of order', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    await insert(database.client, 'a');
    await relay.deliver();
    await relay.floor.raise();
    assert.ok(isSet(relay));
    const cache = (size: number) =>
      database.client.query(`ALTER SEQUENCE core_outboxmessage_relay_seq_seq CACHE ${size}`);
    await cache(10);
    await insert(database.client, 'a');
    await relay.deliver();
    await relay.floor.raise();
    assert.ok(!isSet(relay));
  });

  test('with a snapshot pinned, a claim steps over what was delivered last and not over everything', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    const pinned = await begun(database);
    await pinned.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM core_outboxmessage');
    const rows = Array<string>(10_000).fill('a');
    await insert(database.client, ...rows);
    await relay.client.query('BEGIN');
    for (let delivered = 0; delivered < rows.length; ) delivered += (await relay.deliver(2_000)).length;
    await relay.client.query('COMMIT');
    await insert(database.client, 'b');

    const pages = async () => {
      const values = [SHARD, ALL, relay.floor.seq, relay.floor.parked];
      const plan = await relay.client.query(
        `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${claimQuery(1)}`,
        values,
      );
      const { 'Shared Hit Blocks': hit, 'Shared Read Blocks': read } = plan.rows[0]['QUERY PLAN'][0].Plan;
      return hit + read;
    };
    assert.ok((await pages()) > 200, 'without a floor it visits what was delivered');
    await relay.floor.raise();
    assert.ok((await pages()) < 20);
    assert.equal((await relay.assertNothingMissed()).length, 1);
  });
});

/** The floors, by number, with which the connection claims from here on. */
function recordFloors(client: pg.Client): string[] {
  const floors: string[] = [];
  const send = client.query.bind(client) as (...args: unknown[]) => unknown;
  const record = (query: { name?: string; values: string[] }, ...rest: unknown[]) => {
    if (query.name === 'outbox-claim') floors.push(query.values[2]!);
    return send(query, ...rest);
  };
  client.query = record as typeof client.query;
  return floors;
}

test("the journal's claims begin at its floor", async () => {
  await using database = await outboxDatabase(1);
  const client = await database.connect();
  const journal = await OutboxJournal.takeOver(client, SHARD, database.deployment, 'test');
  await insert(client, ...Array<string>(6_000).fill('a'));
  const floors = recordFloors(client);
  let { batch } = await journal.open(0, 2_000);
  const last: string[] = [];
  while (batch) {
    const seqs = batch.records.map(({ seq }) => seq);
    last.push(seqs.at(-1)!);
    ({ batch } = (await journal.settleAndOpen({ ...batch, seqs }, 2_000)).claim);
  }
  // Claimed in the commit that settles the batch before it, so the floor is one batch behind.
  assert.equal(floors.at(0), FROM_THE_START);
  assert.ok(last.includes(floors.at(-1)!), `${floors} of ${last}`);
});

test('what the relay parks is below its floor at the next claim already', async () => {
  await using database = await outboxDatabase(1);
  const client = await database.connect();
  const journal = await OutboxJournal.takeOver(client, SHARD, database.deployment, 'test');
  await insert(client, ...Array<string>(100).fill('held'), 'free');
  const rejection = { code: 'invalid_record', message: 'as the test wants it' } as const;
  journal.compose = (rows) => {
    const [culprit] = rows.filter(({ key }) => key === 'held');
    const records = composeBatch(rows.filter(({ key }) => key === 'free')).records;
    return { records, rejected: culprit ? [{ row: culprit, rejection }] : [] };
  };
  const floors = recordFloors(client);
  const { number, batchId, records } = (await journal.open(0, 200)).batch!;
  const seqs = records.map(({ seq }) => seq);
  await journal.settleAndOpen({ number, batchId, seqs }, 200);
  assert.deepEqual(floors, [FROM_THE_START, String(BigInt(seqs[0]!) - 1n)]);
});
