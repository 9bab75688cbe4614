import assert from 'node:assert/strict';
import { test } from 'node:test';
import kafkajs from 'kafkajs';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import type { Received } from '../support/kafka.ts';
import { readTopics, testKafka, uniqueTopic } from '../support/kafka.ts';
import { insertRows } from '../support/outbox.ts';
import { openPublisher, startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';

async function withAdmin<T>(work: (admin: kafkajs.Admin) => Promise<T>): Promise<T> {
  const admin = testKafka().admin();
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.disconnect();
  }
}

/** A topic with settings of its own. */
async function topicWith(settings: Record<string, string>, name?: string): Promise<string> {
  const topic = uniqueTopic(name);
  const configEntries = Object.entries(settings).map(([key, value]) => ({ name: key, value }));
  await withAdmin((admin) =>
    admin.createTopics({ topics: [{ topic, numPartitions: 2, configEntries }], waitForLeaders: true }),
  );
  return topic;
}

const change = (topic: string, name: string, value: string) =>
  withAdmin((admin) =>
    admin.alterConfigs({
      validateOnly: false,
      resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name, value }] }],
    }),
  );

const text = (bytes: number) => ({ text: 'x'.repeat(bytes) });

async function rowOf({ client }: TestDatabase, id: string | undefined) {
  const { rows } = await client.query('SELECT * FROM core_outboxmessage WHERE id = $1', [id]);
  return rows[0];
}

const parked = (database: TestDatabase, id: string | undefined) =>
  eventually('the row to be parked', async () => {
    const row = await rowOf(database, id);
    return row.status === 'failed' ? row : undefined;
  });

const numbers = (received: Received[], key: string) =>
  received.filter((record) => record.key === key).map(({ value }) => JSON.parse(value).number);

test('a batch that Kafka rejects is narrowed down: the culprit is parked, all others arrive once and in order', async () => {
  await using database = await outboxDatabase();
  const small = await topicWith({ 'max.message.bytes': '20000' });
  const normal = uniqueTopic();
  await using reader = await readTopics([small, normal]);
  const rows = numberedRows({ topics: [small, normal], keys: 10, perKey: 20 });
  await insertRows(database.client, rows.slice(0, 150));
  const [culprit] = await insertRows(database.client, [
    { topic: small, key: 'culprit', payload: text(50_000) },
  ]);
  await insertRows(database.client, rows.slice(150));
  const behind = { topic: small, key: 'culprit', payload: { number: 'behind' } };
  const [behindId] = await insertRows(database.client, [behind]);

  await using _relay = startRelay(database, 0);
  await eventually('all others', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  const { last_error, attempts, next_retry_at } = await parked(database, culprit);
  assert.match(last_error, /^record_too_large: .* 500\d\d bytes together: .* takes 20000 \(max\.message/);
  assert.ok(attempts >= 1 && next_retry_at !== null);
  assert.equal((await rowOf(database, behindId)).status, 'pending', 'the row behind it waits');

  await database.client.query(
    `UPDATE core_outboxmessage SET payload = '{"number": "mended"}', next_retry_at = now() WHERE id = $1`,
    [culprit],
  );
  await eventually('both rows of the key', () => reader.received.length === rows.length + 2);
  assert.deepEqual(numbers(reader.received, 'culprit'), ['mended', 'behind']);
});

test('what Kafka refuses against all that was known of the topic is found, and nothing is sent twice', async () => {
  await using database = await outboxDatabase();
  const topic = await topicWith({ 'max.message.bytes': '200000' });
  const normal = uniqueTopic();
  await using reader = await readTopics([topic, normal]);
  const rows = numberedRows({ topics: [topic, normal], keys: 10, perKey: 40 });
  await using _relay = startRelay(database, 0);
  await insertRows(database.client, rows.slice(0, 100));
  await eventually('the topic to be known', () => reader.received.length === 100);

  await change(topic, 'max.message.bytes', '20000');
  await insertRows(database.client, rows.slice(100, 450));
  const [culprit] = await insertRows(database.client, [{ topic, key: 'culprit', payload: text(50_000) }]);
  await insertRows(database.client, rows.slice(450));
  await eventually('all others', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  assert.match((await parked(database, culprit)).last_error, /^record_too_large: /);
});

test('a record that only its framing makes too large is found by halving, and nothing is sent twice', async () => {
  await using database = await outboxDatabase();
  const topic = await topicWith({ 'max.message.bytes': '20000' });
  const normal = uniqueTopic();
  await using reader = await readTopics([topic, normal]);
  const rows = numberedRows({ topics: [topic, normal], keys: 10, perKey: 20 });
  // In front, so that it has its topic's room for itself and shares the batch with others.
  const [culprit] = await insertRows(database.client, [{ topic, key: 'culprit', payload: text(19_950) }]);
  await insertRows(database.client, rows);
  await using _relay = startRelay(database, 0);
  await eventually('all others', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  assert.match((await parked(database, culprit)).last_error, /^record_too_large: MESSAGE_TOO_LARGE/);
});

test('what a topic is known to refuse is asked again: its limit raised, a parked message is delivered', async () => {
  await using database = await outboxDatabase();
  const topic = await topicWith({ 'max.message.bytes': '20000' });
  await using reader = await readTopics([topic]);
  await using _relay = startRelay(database, 0);
  const [id] = await insertRows(database.client, [{ topic, key: 'k', payload: text(50_000) }]);
  await parked(database, id);
  await change(topic, 'max.message.bytes', '200000');
  await eventually('the message', () => reader.received.length === 1, { withinMs: 40_000 });
});

test('a message without a key to a compacted topic is refused, and taken when it is compacted no more', async () => {
  await using database = await outboxDatabase();
  const topic = await topicWith({ 'cleanup.policy': 'compact' });
  await using reader = await readTopics([topic]);
  await using _relay = startRelay(database, 0);
  const [id] = await insertRows(database.client, [
    { topic, payload: { number: 'keyless' } },
    { topic, key: 'k', payload: { number: 1 } },
    { topic, key: 'k', payload: { number: 2 } },
  ]);
  await eventually('those with a key', () => reader.received.length === 2);
  const { last_error } = await parked(database, id);
  assert.match(last_error, /^invalid_record: topic .* is compacted and takes no message without a key/);
  assert.deepEqual(numbers(reader.received, 'k'), [1, 2]);
  await change(topic, 'cleanup.policy', 'delete');
  await eventually('the message', () => reader.received.length === 3, { withinMs: 40_000 });
});

test('without the right to create topics, messages to a missing one wait for it, and no other does', async () => {
  await using database = await outboxDatabase();
  const missing = uniqueTopic('missing');
  const normal = uniqueTopic();
  await using reader = await readTopics([normal]);
  const { id: deployment } = database.deployment;
  await using _relay = startRelay(database, 0, {
    openPublisher: (shard) => openPublisher(deployment, shard, undefined, { createTopics: false }),
  });
  const rows = numberedRows({ topics: [missing, normal], keys: 5, perKey: 20 });
  await insertRows(database.client, rows);
  const toNormal = rows.filter(({ topic }) => topic === normal);
  await eventually('all others', () => reader.received.length >= toNormal.length);
  assertExactlyOnceInOrder(reader.received, toNormal);
  const { rows: refused } = await database.client.query(
    `SELECT status, last_error, count(*)::int AS rows FROM core_outboxmessage WHERE topic = $1 GROUP BY 1, 2 ORDER BY 1`,
    [missing],
  );
  const reason = `unknown_topic: topic ${missing} does not exist, and SA01_KAFKA_CREATE_TOPICS is false`;
  assert.deepEqual(refused, [
    { status: 'failed', last_error: reason, rows: 5 },
    { status: 'pending', last_error: null, rows: 95 },
  ]);

  await using created = await readTopics([missing]);
  const more = numberedRows({ topics: [normal], keys: 5, perKey: 20 });
  await insertRows(database.client, more);
  await eventually('the messages', () => created.received.length === toNormal.length, { withinMs: 40_000 });
  assertExactlyOnceInOrder(
    created.received,
    rows.filter(({ topic }) => topic === missing),
  );
  await eventually('the normal ones', () => reader.received.length === toNormal.length + more.length);
});

test('a topic whose name collides with that of another cannot be created, and delays no other', async () => {
  await using database = await outboxDatabase();
  const first = uniqueTopic('collides.with');
  const second = first.replaceAll('.', '_');
  await using reader = await readTopics([first]);
  await using _relay = startRelay(database, 0);
  const rows = numberedRows({ topics: [first], keys: 5, perKey: 20 });
  await insertRows(database.client, rows.slice(0, 50));
  const [id] = await insertRows(database.client, [{ topic: second, key: 'k' }]);
  await insertRows(database.client, rows.slice(50));
  await eventually('all others', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  assert.match((await parked(database, id)).last_error, /^invalid_topic: INVALID_TOPIC_EXCEPTION/);
});
