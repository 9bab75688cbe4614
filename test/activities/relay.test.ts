import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pino } from 'pino';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows, type Row } from '../support/outbox.ts';
import { startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';

test('relays every committed row once, in order for each key, and none that was rolled back', async () => {
  await using database = await outboxDatabase(2);
  const topics = [uniqueTopic(), uniqueTopic()];
  await using reader = await readTopics(topics);
  await using _first = startRelay(database, 0);
  await using _second = startRelay(database, 1);

  const rows = numberedRows({ topics, keys: 20, perKey: 50 });
  for (let at = 0; at < rows.length; at += 40) {
    await database.client.query('BEGIN');
    await insertRows(database.client, rows.slice(at, at + 40));
    await database.client.query('COMMIT');
    await database.client.query('BEGIN');
    await insertRows(database.client, [{ topic: topics[0]!, key: 'rolled back' }]);
    await database.client.query('ROLLBACK');
  }
  await eventually('all rows to arrive', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  await eventually('all rows to be marked', async () => {
    assert.deepEqual(await countByStatus(database.client), { published: rows.length });
    return true;
  });
});

test('a row committed late, behind rows with higher numbers that are published already, is not skipped', async () => {
  await using database = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  await using _relay = startRelay(database, 0);

  const late = await database.connect();
  await late.query('BEGIN');
  await insertRows(late, [{ topic, key: 'late', payload: 'late' }]);
  await insertRows(database.client, [{ topic, key: 'early', payload: 'early' }]);
  await eventually('the early row', () => reader.received.length === 1);
  await late.query('COMMIT');
  await eventually('the late row', () => reader.received.length === 2);
  assert.deepEqual(
    reader.received.map(({ value }) => value),
    ['"early"', '"late"'],
  );
});

test('an idle shard is woken by an insert, and asks for it only while it waits', async () => {
  await using database = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  await using relay = startRelay(database, 0);
  const waiting = async () => {
    const { rows } = await database.client.query(
      'SELECT waiting FROM orchestrator.outbox_waiting WHERE shard = 0',
    );
    return rows[0]?.waiting === true;
  };
  await eventually('the relay to wait', waiting);
  await insertRows(database.client, [{ topic, key: 'k' }]);
  await eventually('the row', () => reader.received.length === 1);
  await eventually('the relay to wait again', waiting);
  await relay.stop();
  assert.equal(await waiting(), false, 'a relay that has stopped is not waiting');
});

test('batches stay within what Kafka takes, whatever part of a row is large', async () => {
  await using database = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  const key = 'k'.repeat(200);
  const headers = { trace: 'x'.repeat(400), more: 'y'.repeat(400) };
  const rows = Array.from({ length: 3_000 }, (_, number) => ({ topic, key, headers, payload: { number } }));
  await insertRows(database.client, rows);
  const refused: string[] = [];
  const logger = pino({ level: 'warn' }, { write: (line) => void refused.push(line) });
  await using _relay = startRelay(database, 0, { logger });
  await eventually('all rows', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  assert.deepEqual(refused, [], 'no batch was rejected on the way');
});

test('a stop finishes and settles the batch under way', async () => {
  await using database = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  const rows: Row[] = numberedRows({ topics: [topic], keys: 10, perKey: 300 });
  await insertRows(database.client, rows);
  await using relay = startRelay(database, 0);
  await eventually('the first batch', () => reader.received.length > 0);
  await relay.stop();
  const { rows: journals } = await database.client.query(
    'SELECT open_batch, delivered_total FROM orchestrator.outbox_journal',
  );
  assert.equal(journals[0].open_batch, null, 'no batch is left open');
  const { published = 0 } = await countByStatus(database.client);
  assert.equal(relay.reports.at(-1)?.totals?.delivered, published, 'the last report knows of it');
  assert.equal(Number(journals[0].delivered_total), published, 'the total is what is marked');
  await eventually('what is marked to be readable', () => reader.received.length === published);

  await using _successor = startRelay(database, 0);
  await eventually('the rest', () => reader.received.length === rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
});
