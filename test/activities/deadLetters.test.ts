import assert from 'node:assert/strict';
import { test } from 'node:test';
import type pg from 'pg';
import { settleDeployment } from '../../src/database/deployment.ts';
import { migrate } from '../../src/database/migrate.ts';
import { discardMessage } from '../../src/database/outboxDelivery.ts';
import { emptyDatabase, outboxDatabase } from '../support/database.ts';
import { djangoDatabase } from '../support/django.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { insertRows, type Row } from '../support/outbox.ts';
import { startRelay } from '../support/relay.ts';

/** Writes rows that have one attempt only. */
async function insertLast(client: pg.ClientBase, rows: Row[]): Promise<string[]> {
  await client.query('BEGIN');
  const ids = await insertRows(client, rows);
  await client.query('UPDATE core_outboxmessage SET max_attempts = 1 WHERE id = ANY($1)', [ids]);
  await client.query('COMMIT');
  return ids;
}

const letterOf = (client: pg.ClientBase, id: string | undefined) =>
  eventually(`the letter of ${id}`, async () => {
    const { rows } = await client.query(
      'SELECT * FROM core_deadlettermessage WHERE original_outbox_id = $1',
      [id],
    );
    return rows[0];
  });

const messageOf = async (client: pg.ClientBase, id: string | undefined) => {
  const { rows } = await client.query('SELECT * FROM core_outboxmessage WHERE id = $1', [id]);
  return rows[0];
};

for (const made of ['this service', 'Django'] as const) {
  test(`an exhausted message is dead, in the table and on its .dlq topic, and its key goes on; tables by ${made}`, async () => {
    await using database = made === 'Django' ? await djangoDatabase() : await emptyDatabase();
    await migrate(database.url);
    const deployment = await settleDeployment(database.client, 1);
    const { client } = database;
    const topic = uniqueTopic();
    await using reader = await readTopics([topic, `${topic}.dlq`]);
    await using _relay = startRelay({ url: database.url, deployment }, 0);
    const headers = { nested: { a: 'b' } };
    const payload = { number: 1, text: 'ü' };
    const row = { topic, key: 'k', payload, headers, idempotencyKey: 'order:1' };
    const [id] = await insertLast(client, [row]);
    const [behind] = await insertRows(client, [{ topic, key: 'k' }]);

    const [letter, behindIt] = await eventually('both', () => {
      const dlq = reader.received.find((record) => record.topic === `${topic}.dlq`);
      const next = reader.received.find((record) => record.topic === topic);
      return dlq && next ? [dlq, next] : undefined;
    });
    assert.equal(behindIt!.headers.message_id, behind);
    const { original_seq, created_at, resolved, ...stored } = await letterOf(client, id);
    const { status, relay_seq, attempts, last_error, failed_at, ...message } = await messageOf(client, id);
    const reason = 'headers are not a flat JSON object of strings, which is all that Kafka headers can carry';
    assert.deepEqual([status, attempts, last_error], ['dead', 1, `invalid_headers: ${reason}`]);
    assert.deepEqual([original_seq, resolved], [relay_seq, false]);
    assert.deepEqual(failed_at, created_at);
    assert.deepEqual(stored, {
      id: stored.id,
      original_outbox_id: id,
      original_topic: topic,
      idempotency_key: 'order:1',
      payload,
      headers,
      error_message: reason,
      error_type: 'invalid_headers',
      attempts: 1,
      original_created_at: message.created_at,
      resolved_at: null,
      resolved_by: null,
      resolution_notes: null,
      partition_key: 'k',
      replay_id: null,
    });
    const { created_at: created, failed_at: failed, ...envelope } = JSON.parse(letter!.value);
    assert.deepEqual(envelope, {
      dead_letter_id: stored.id,
      message_id: id,
      idempotency_key: 'order:1',
      original_topic: topic,
      original_key: 'k',
      headers,
      payload,
      reference: null,
      error_type: 'invalid_headers',
      error_message: reason,
      attempts: 1,
    });
    assert.deepEqual([new Date(created), new Date(failed)], [message.created_at, failed_at]);
    assert.equal(letter!.key, 'k');
    const { message_id: _, ...letterHeaders } = letter!.headers;
    assert.deepEqual(letterHeaders, {
      dead_letter_id: stored.id,
      original_topic: topic,
      error_type: 'invalid_headers',
      idempotency_key: `dead-letter:${stored.id}`,
    });
  });
}

test('a payload that might not fit is in the table, and the record on the .dlq topic says where', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const topic = uniqueTopic();
  await using reader = await readTopics([`${topic}.dlq`]);
  await using _relay = startRelay(database, 0);
  const text = (length: number) => 'x'.repeat(length);
  const [tooLarge, large, small] = await insertLast(client, [
    { topic, key: 'too large', payload: text(2_000_000) },
    { topic, key: 'large', payload: text(950_000), headers: [] },
    { topic, key: 'small', payload: text(880_000), headers: [] },
  ]);
  await eventually('three records', () => reader.received.length === 3);
  const envelopeOf = (key: string) => JSON.parse(reader.received.find((record) => record.key === key)!.value);
  for (const [key, id, length] of [
    ['too large', tooLarge, 2_000_000],
    ['large', large, 950_000],
  ] as const) {
    const letter = await letterOf(client, id);
    assert.equal(letter.payload.length, length);
    const { payload, headers, reference } = envelopeOf(key);
    assert.deepEqual({ payload, headers }, { payload: null, headers: null });
    assert.deepEqual(reference, {
      table: 'core_deadlettermessage',
      id: letter.id,
      payload_bytes: length + 2,
    });
  }
  const { payload, reference } = envelopeOf('small');
  assert.deepEqual([payload.length, reference], [880_000, null]);
  assert.equal((await letterOf(client, small)).error_type, 'invalid_headers');
});

test('letters of .dlq topics and of topics that cannot be, end in the table', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const topics = [`${uniqueTopic()}.dlq`, 'no topic', '', '..', 't'.repeat(246), 't'.repeat(255)];
  const ids = await insertLast(
    client,
    topics.map((topic) => ({ topic, key: 'k', headers: [] })),
  );
  await using relay = startRelay(database, 0);
  for (const id of ids) await letterOf(client, id);
  const { rows } = await client.query(
    'SELECT count(*)::int AS rows FROM core_outboxmessage WHERE NOT id = ANY($1)',
    [ids],
  );
  assert.deepEqual(rows, [{ rows: 0 }]);
  await eventually('the report', () => relay.reports.at(-1)?.parked === 0);
});

test('letters of one batch go to their .dlq topic in the order of their messages', async () => {
  await using database = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([`${topic}.dlq`], 1);
  const numbers = Array.from({ length: 50 }, (_, number) => number);
  await insertLast(
    database.client,
    numbers.map((number) => ({ topic, payload: number, headers: [] })),
  );
  await using _relay = startRelay(database, 0);
  await eventually('all', () => reader.received.length === numbers.length);
  assert.deepEqual(
    reader.received.map(({ value }) => JSON.parse(value).payload),
    numbers,
  );
});

test('discarded, a message frees its key at once, and the relay no longer counts it as parked', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  await using relay = startRelay(database, 0);
  const [id] = await insertRows(client, [
    { topic, key: 'k', headers: [], payload: 'discarded' },
    { topic, key: 'k', payload: 'behind' },
  ]);
  const [illegal] = await insertRows(client, [{ topic: 'no topic', key: 'k' }]);
  await client.query(
    `UPDATE core_outboxmessage SET max_attempts = 100, attempts = greatest(attempts, 10) WHERE id = ANY($1)`,
    [[id, illegal]],
  );
  await eventually('the report', () => relay.reports.at(-1)?.parked === 2);
  await discardMessage(client, id!);
  await eventually('the row behind', () => reader.received.length === 1, { withinMs: 10_000 });
  assert.equal(JSON.parse(reader.received[0]!.value), 'behind');
  const { error_type, error_message } = await letterOf(client, id);
  assert.equal(error_type, 'discarded');
  assert.match(error_message, /^discarded by a person; before that: invalid_headers: /);
  // The letter of a topic that cannot be makes no traffic by which the relay would notice.
  await eventually('the report', () => relay.reports.at(-1)?.parked === 1, { withinMs: 10_000 });
  await discardMessage(client, illegal!);
  await eventually('the report', () => relay.reports.at(-1)?.parked === 0, { withinMs: 10_000 });
});
