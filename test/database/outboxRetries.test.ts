import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { RETRY_PORTION } from '../../src/database/outboxParking.ts';
import type { OutboxRowHead } from '../../src/domain/outbox.ts';
import { outboxDatabase } from '../support/database.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';

const rejection = { code: 'invalid_headers', message: 'still' } as const;
const refuse = (rows: OutboxRowHead[]) => ({
  refused: rows.map((row) => ({ row, rejection })),
  released: [],
});

/** Parked rows that are due, and the journal of their shard. */
async function withDue(rows: number) {
  const database = await outboxDatabase(1);
  const ids = await insertRows(
    database.client,
    Array.from({ length: rows }, (_, number) => ({ topic: 'due', key: `key-${number}` })),
  );
  await database.client.query(
    `UPDATE core_outboxmessage SET status = 'failed', attempts = 1, max_attempts = 3, next_retry_at = now()`,
  );
  const journal = await OutboxJournal.takeOver(await database.connect(), 0, database.deployment, 'test');
  return Object.assign(database, { ids, journal });
}

test('Refused again, a row stays where it is at the cost of an attempt; otherwise it is released', async () => {
  await using database = await withDue(3);
  const { client, ids, journal } = database;
  const judge = (rows: OutboxRowHead[]) => ({
    refused: rows.filter(({ id }) => id !== ids[0]).map((row) => ({ row, rejection })),
    released: rows.filter(({ id }) => id === ids[0]),
  });
  const { refused, dead, more } = await journal.retryDue(judge);
  assert.deepEqual([refused.length, dead, more], [2, 0, false]);
  const { rows } = await client.query(
    `SELECT status, attempts, last_error, round(extract(epoch FROM next_retry_at - now())) AS seconds
     FROM core_outboxmessage ORDER BY relay_seq`,
  );
  const stays = { status: 'failed', attempts: 2, last_error: 'invalid_headers: still', seconds: '4' };
  assert.deepEqual(rows, [{ status: 'pending', attempts: 1, last_error: null, seconds: null }, stays, stays]);
  assert.equal((await journal.retryDue(refuse)).refused.length, 0, 'nothing is due any more');
});

test('Refused for the last time, a row is dead with its letter', async () => {
  await using database = await withDue(2);
  const { client, journal } = database;
  await client.query('UPDATE core_outboxmessage SET attempts = 2');
  assert.equal((await journal.retryDue(refuse)).dead, 2);
  assert.deepEqual(await countByStatus(client), { dead: 2, pending: 2 }, 'and two records for due.dlq');
  const { rows } = await client.query(
    'SELECT error_type, attempts, count(*)::int FROM core_deadlettermessage GROUP BY 1, 2',
  );
  assert.deepEqual(rows, [{ error_type: 'invalid_headers', attempts: 3, count: 2 }]);
});

test('Many come in portions, and what somebody else holds is left to them', async () => {
  await using database = await withDue(RETRY_PORTION + 2);
  const { journal, ids } = database;
  const person = await database.connect();
  await person.query('BEGIN');
  await person.query('SELECT FROM core_outboxmessage WHERE id = $1 FOR UPDATE', [ids[0]]);
  const portions = [await journal.retryDue(refuse), await journal.retryDue(refuse)];
  assert.deepEqual(
    portions.map(({ refused, more }) => [refused.length, more]),
    [
      [RETRY_PORTION, true],
      [1, false],
    ],
  );
  await person.query('ROLLBACK');
  assert.equal((await journal.retryDue(refuse)).refused.length, 1);
});

test('Two relays on the same rows, one of which does not know yet that it was replaced, spend one attempt', async () => {
  await using database = await withDue(50);
  const { client, journal, deployment } = database;
  const successor = await OutboxJournal.takeOver(await database.connect(), 0, deployment, 'test');
  await Promise.all([journal.retryDue(refuse), successor.retryDue(refuse)]);
  const { rows } = await client.query('SELECT DISTINCT attempts FROM core_outboxmessage');
  assert.deepEqual(rows, [{ attempts: 2 }]);
});
