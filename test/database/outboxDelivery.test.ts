import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  chooseDeliveries,
  deliveryStarted,
  discardMessage,
  MAX_DELIVERIES,
  readMessage,
  requestAttempt,
} from '../../src/database/outboxDelivery.ts';
import { lockDue, release } from '../../src/database/outboxParking.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';

/** A database with parked rows, the next attempt of each due in an hour. */
async function withParked(rows: number, shards = 1) {
  const database = await outboxDatabase(shards);
  const keys = Array.from({ length: rows }, (_, number) => ({ topic: 'parked', key: `key-${number}` }));
  const ids = await insertRows(database.client, keys);
  await database.client.query(
    `UPDATE core_outboxmessage SET status = 'failed', attempts = 1, last_error = 'invalid_record: x',
       next_retry_at = now() + interval '1 hour'`,
  );
  return Object.assign(database, { ids });
}

test('Two shards that choose at the same moment stay within the limit together', async () => {
  await using database = await withParked(200, 2);
  const [one, other, blocker] = await Promise.all([1, 2, 3].map(() => database.connect()));
  await blocker!.query('BEGIN; LOCK TABLE orchestrator.outbox_delivery IN ACCESS EXCLUSIVE MODE');
  const both = [one, other].map((client, shard) => chooseDeliveries(client!, shard, 2));
  await eventually('both to wait', async () => {
    const { rows } = await database.client.query(
      `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    return rows.length === 2;
  });
  await blocker!.query('COMMIT');
  const chosen = (await Promise.all(both)).flat();
  assert.equal(new Set(chosen).size, chosen.length);
  assert.equal(chosen.length, MAX_DELIVERIES);
});

test('A chosen row is chosen until its workflow is told to be started, and makes room when it is settled', async () => {
  await using database = await withParked(MAX_DELIVERIES + 1);
  const { client } = database;
  const chosen = await chooseDeliveries(client, 0, 1);
  assert.equal(chosen.length, MAX_DELIVERIES);
  assert.deepEqual(new Set(await chooseDeliveries(client, 0, 1)), new Set(chosen), 'a crash in between');
  for (const id of chosen) await deliveryStarted(client, id);
  assert.deepEqual(await chooseDeliveries(client, 0, 1), [], 'no room for the last one');
  await client.query(`UPDATE core_outboxmessage SET status = 'pending' WHERE id = $1`, [chosen[0]]);
  assert.deepEqual(await chooseDeliveries(client, 0, 1), [], 'on its way it is not settled');
  await client.query(`UPDATE core_outboxmessage SET status = 'published' WHERE id = $1`, [chosen[0]]);
  const left = database.ids.filter((id) => !chosen.includes(id));
  assert.deepEqual(await chooseDeliveries(client, 0, 1), left);
});

test('The relay leaves a row with a workflow to it for ten seconds, and forgets none', async () => {
  await using database = await withParked(5);
  const { client, ids } = database;
  const [, due, overdue, undated, alone] = ids as [string, string, string, string, string];
  await chooseDeliveries(client, 0, 1);
  for (const id of ids) if (id !== alone) await deliveryStarted(client, id);
  const dueSince: [string, string | null][] = [
    [due, '9 seconds'],
    [overdue, '11 seconds'],
    [undated, null],
    [alone, '1 second'],
  ];
  for (const [id, since] of dueSince) {
    await client.query('UPDATE core_outboxmessage SET next_retry_at = now() - $2::interval WHERE id = $1', [
      id,
      since,
    ]);
  }
  const taken = await lockDue(client, 0, 1);
  assert.deepEqual(new Set(taken.map(({ id }) => id)), new Set([overdue, undated, alone]));
  await requestAttempt(client, due);
  assert.equal((await lockDue(client, 0, 1)).length, 4, 'its workflow has asked for the attempt');
});

test('Discarded, a parked row is dead and has its letter; a row on its way is left alone', async () => {
  await using database = await withParked(2);
  const { client, ids } = database;
  const [parked, released] = ids as [string, string];
  await release(client, [{ id: released }]);
  for (const id of [parked, released, parked]) await discardMessage(client, id);
  assert.equal((await readMessage(client, released))?.status, 'pending');
  const { rows } = await client.query(
    `SELECT m.status, m.failed_at IS NOT NULL AS failed, m.next_retry_at, l.error_type, l.error_message, l.attempts, l.resolved
     FROM core_outboxmessage AS m JOIN core_deadlettermessage AS l ON l.original_outbox_id = m.id`,
  );
  assert.deepEqual(rows, [
    {
      status: 'dead',
      failed: true,
      next_retry_at: null,
      error_type: 'discarded',
      error_message: 'discarded by a person; before that: invalid_record: x',
      attempts: 1,
      resolved: false,
    },
  ]);
  assert.deepEqual(await countByStatus(client), { dead: 1, pending: 2 }, 'and one record for parked.dlq');
});
