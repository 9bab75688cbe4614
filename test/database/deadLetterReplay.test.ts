import assert from 'node:assert/strict';
import { test } from 'node:test';
import type pg from 'pg';
import {
  previewLetters,
  putBack,
  resolveLetters,
  settleReplays,
} from '../../src/database/deadLetterReplay.ts';
import type { LetterSelection } from '../../src/domain/deadLetters.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { insertRows } from '../support/outbox.ts';
import { refuse } from '../support/parked.ts';

const everything: LetterSelection = { topic: undefined, ids: undefined, from: undefined, to: undefined };
const page = { after: null, limit: 100 };
const resolution = { by: 'test', notes: null };

/** Messages that died at their first attempt, one letter each; the letters' ids, in the order of the messages. */
async function letters(client: pg.ClientBase, keys: string[], topic = 'replayed'): Promise<string[]> {
  const ids = await insertRows(
    client,
    keys.map((key) => ({ topic, key, payload: { key } })),
  );
  await client.query('UPDATE core_outboxmessage SET max_attempts = 1 WHERE id = ANY($1)', [ids]);
  assert.equal(await refuse(client, ids), ids.length);
  const { rows } = await client.query<{ id: string }>(
    'SELECT id FROM core_deadlettermessage WHERE original_outbox_id = ANY($1) ORDER BY original_seq',
    [ids],
  );
  return rows.map(({ id }) => id);
}

async function replayRows(client: pg.ClientBase) {
  const { rows } = await client.query<{ id: string; key: string; status: string; letter: string }>(
    `SELECT id, partition_key AS key, status, headers->>'replayed_dead_letter' AS letter
     FROM core_outboxmessage WHERE headers ? 'replayed_dead_letter' ORDER BY relay_seq`,
  );
  return rows;
}

test('Letters go back in the order of their messages, page by page, with what they were', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const ids = await letters(client, ['a', 'b', 'a', 'c', 'b']);
  // The order is that of the messages, whenever their letters were written.
  await client.query(
    `UPDATE core_deadlettermessage SET created_at = created_at - original_seq * interval '1 hour'`,
  );
  const first = await putBack(client, everything, { after: null, limit: 2 });
  const second = await putBack(client, everything, { after: first.cursor, limit: 2 });
  const third = await putBack(client, everything, { after: second.cursor, limit: 2 });
  const end = await putBack(client, everything, { after: third.cursor, limit: 2 });
  const put = [first, second, third].flatMap(({ replays }) => replays);
  assert.deepEqual(
    put.map(({ letterId }) => letterId),
    ids,
  );
  assert.deepEqual(end.replays, []);
  assert.deepEqual(
    (await replayRows(client)).map(({ id, letter }) => ({ letterId: letter, messageId: id })),
    put,
  );
});

test('A letter whose message is on its way or delivered is not sent a second time, but waited for', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await letters(client, ['pending', 'failed', 'published', 'dead']);
  const first = await putBack(client, everything, page);
  for (const { id, key } of await replayRows(client)) {
    await client.query('UPDATE core_outboxmessage SET status = $2 WHERE id = $1', [id, key]);
  }
  const second = await putBack(client, everything, page);
  assert.deepEqual(
    second.replays.map(({ messageId }, index) => messageId === first.replays[index]?.messageId),
    [true, true, true, false],
    'only the one that died again is sent anew',
  );
  assert.equal((await replayRows(client)).length, 5);
});

test('Two replays at the same moment put each letter back once', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await letters(client, ['a', 'b', 'c']);
  const [one, other, blocker] = await Promise.all([1, 2, 3].map(() => database.connect()));
  // Both wait for the same letters, and one finds them changed by the other when it gets them.
  await blocker!.query('BEGIN; SELECT FROM core_deadlettermessage FOR UPDATE');
  const both = [one, other].map((connection) => putBack(connection!, everything, page));
  await eventually('both to wait', async () => {
    const { rows } = await client.query(
      `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    return rows.length === 2;
  });
  await blocker!.query('COMMIT');
  const [first, second] = await Promise.all(both);
  assert.deepEqual(first!.replays, second!.replays);
  assert.equal((await replayRows(client)).length, 3);
});

test('A letter is resolved when its message is published, and counted by what became of it', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const [published, dead, failed] = await letters(client, ['published', 'dead', 'failed']);
  const { replays } = await putBack(client, everything, page);
  assert.deepEqual(await settleReplays(client, replays, resolution), { resolved: 0, failed: 0, open: 3 });
  for (const { id, key } of await replayRows(client)) {
    await client.query('UPDATE core_outboxmessage SET status = $2 WHERE id = $1', [id, key]);
  }
  assert.deepEqual(await settleReplays(client, replays, { by: 'me', notes: 'mended' }), {
    resolved: 1,
    failed: 1,
    open: 1,
  });
  const { rows } = await client.query(
    `SELECT id, resolved, resolved_at IS NOT NULL AS dated, resolved_by AS by, resolution_notes AS notes
     FROM core_deadlettermessage ORDER BY original_seq`,
  );
  const open = { resolved: false, dated: false, by: null, notes: null };
  const notes = `mended; replayed as message ${replays[0]!.messageId}`;
  assert.deepEqual(rows, [
    { id: published, resolved: true, dated: true, by: 'me', notes },
    { id: dead, ...open },
    { id: failed, ...open },
  ]);
});

test('A replay that dies again writes no second letter: the first one takes on its error and attempts', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const [letter] = await letters(client, ['a']);
  const { replays } = await putBack(client, everything, page);
  assert.equal(await refuse(client, [replays[0]!.messageId]), 1);
  const { rows } = await client.query(
    `SELECT id, idempotency_key, attempts, error_type, error_message, resolved FROM core_deadlettermessage
     WHERE original_topic = 'replayed'`,
  );
  assert.equal(rows.length, 1);
  const { idempotency_key, ...first } = rows[0];
  assert.deepEqual(first, {
    id: letter,
    attempts: 2,
    error_type: 'invalid_record',
    error_message: 'refused by a test',
    resolved: false,
  });
  const dlq = await client.query(`SELECT FROM core_outboxmessage WHERE topic = 'replayed.dlq'`);
  assert.equal(dlq.rowCount, 1, 'and it was told to the dead letter topic once');

  await client.query(`UPDATE core_deadlettermessage SET resolved = true WHERE id = $1`, [letter]);
  await client.query(
    `UPDATE core_outboxmessage SET status = 'pending', attempts = 0 WHERE headers ? 'replayed_dead_letter'`,
  );
  assert.equal(await refuse(client, [replays[0]!.messageId]), 1);
  const second = await client.query(
    `SELECT idempotency_key FROM core_deadlettermessage WHERE NOT resolved AND original_topic = 'replayed'`,
  );
  assert.deepEqual(
    second.rows,
    [{ idempotency_key }],
    'behind a resolved letter a new one, of the same message',
  );
});

test('A preview counts and changes nothing', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const [a, b, c] = await letters(client, ['a', 'b', 'c']);
  const [d] = await letters(client, ['d'], 'another');
  const [e] = await letters(client, ['e']);
  assert.deepEqual(await previewLetters(client, everything, undefined), {
    found: 5,
    groups: [
      { topic: 'replayed', error_type: 'invalid_record', letters: 4 },
      { topic: 'another', error_type: 'invalid_record', letters: 1 },
    ],
    ids: [a, b, c, d, e],
  });
  const some = { ...everything, topic: 'replayed', ids: [b!, c!, d!, e!] };
  assert.deepEqual((await previewLetters(client, some, 2)).ids, [b, c]);
  assert.equal((await previewLetters(client, { ...everything, from: '2999-01-01' }, undefined)).found, 0);
  assert.equal((await previewLetters(client, { ...everything, to: '2999-01-01' }, 1)).found, 1);
  assert.deepEqual(await replayRows(client), []);
});

test('Letters are resolved without a replay, the oldest first', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const [a, b, c] = await letters(client, ['a', 'b', 'c']);
  const resolved = async () => {
    const { rows } = await client.query(
      `SELECT id, resolved_by AS by, resolution_notes AS notes FROM core_deadlettermessage WHERE resolved ORDER BY original_seq`,
    );
    return rows;
  };
  assert.equal(await resolveLetters(client, everything, { by: 'me', notes: 'why', limit: 2 }), 2);
  const told = [a, b].map((id) => ({ id, by: 'me', notes: 'why' }));
  assert.deepEqual(await resolved(), told);
  assert.equal(await resolveLetters(client, everything, { by: 'you', notes: null, limit: 10 }), 1);
  assert.deepEqual(await resolved(), [...told, { id: c, by: 'you', notes: 'resolved without a replay' }]);
  assert.deepEqual((await putBack(client, everything, page)).replays, []);
});
