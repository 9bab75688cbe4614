import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Message } from 'kafkajs';
import { handOver, owners } from '../../src/consumers.ts';
import { previewLetters, putBack, settleReplays } from '../../src/database/deadLetterReplay.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { ConsumedRecord } from '../../src/domain/consumedRecord.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { Loss } from '../support/faultProxy.ts';
import { readTopics, testKafka, uniqueTopic } from '../support/kafka.ts';
import { postgresProxy, through } from '../support/postgresProxy.ts';
import { startRelay } from '../support/relay.ts';
import { groupOffsets, startConsumer } from '../support/topicConsumer.ts';

const MEMORY = 'somabrain.memory.remember';
const good = (id: string) => ({
  key: 'acme',
  value: JSON.stringify({ memory_id: id, tenant_id: 'acme', payload: { id } }),
});
const everything = { topic: undefined, ids: undefined, from: undefined, to: undefined };

const POISON: [Message, reason: RegExp][] = [
  [{ value: Buffer.from([0x7b, 0xff]) }, /not UTF-8/],
  [{ value: '' }, /is empty/],
  [{ value: null }, /tombstone/],
  [{ value: 'x'.repeat(1_000_000) }, /not JSON/],
  [{ value: `${'['.repeat(10_000)}${']'.repeat(10_000)}` }, /100 levels deep/],
  [{ value: '{"a": 1e999}' }, /larger than 1\.8e308/],
  [{ value: '{"memory_id":"m","tenant_id":"acme","payload":{},"payload":7}' }, /payload must be an object/],
  [{ ...good('m'), key: 'globex' }, /the record's key must be its tenant_id/],
  [{ ...good('m'), headers: { idempotency_key: Buffer.from([0xff]) } }, /header idempotency_key/],
  [
    { value: '{"memory_id": 1}', headers: { idempotency_key: 'own:1', raw: Buffer.from([0xff]) } },
    /memory_id must be/,
  ],
  [{ value: '[]', timestamp: String(Number.MAX_SAFE_INTEGER) }, /JSON object/],
  [{ value: '[]', key: Buffer.from([0]) }, /JSON object/],
];

async function send(topic: string, messages: Message[]): Promise<void> {
  const producer = testKafka().producer();
  await producer.connect();
  for (const message of messages) await producer.send({ topic, messages: [{ partition: 0, ...message }] });
  await producer.disconnect();
}

test('what cannot be understood is a dead letter with its bytes and the reason, once; the partition goes on', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const pool = openPool(database.url);
  const topic = uniqueTopic();
  let letters = 0;
  const records: ConsumedRecord[] = [];
  const handle = handOver(pool, MEMORY, owners[MEMORY]!, (count) => {
    letters += count;
  });
  {
    await using consumer = startConsumer({
      topic,
      handle: async (portion) => {
        await handle(portion);
        records.push(...portion);
      },
    });
    await eventually('the group', () => consumer.state().state === 'consuming');
    const poison = POISON.map(([message]) => message);
    await send(topic, [good('m-1'), ...poison, good('m-2'), good('m-1')]);
    await eventually(
      'no lag',
      async () => (await groupOffsets(topic)).committed[0] === String(poison.length + 3),
    );
  }
  // As after a kill before the commit of the offset.
  await handle(records);
  assert.equal(letters, POISON.length);
  const memories = await client.query(
    'SELECT idempotency_key, payload FROM core_pendingmemory ORDER BY sync_seq',
  );
  assert.deepEqual(memories.rows, [
    { idempotency_key: 'memory:acme:m-1', payload: { id: 'm-1' } },
    { idempotency_key: 'memory:acme:m-2', payload: { id: 'm-2' } },
  ]);
  const { rows } = await client.query('SELECT * FROM core_deadlettermessage ORDER BY created_at');
  assert.equal(rows.length, POISON.length);
  for (const [index, [message, reason]] of POISON.entries()) {
    const letter = rows[index]!;
    const value = message.value === null ? null : Buffer.from(message.value);
    assert.match(letter.error_message, reason);
    assert.equal(letter.error_type, 'message_not_understood');
    const { raw_base64, key_base64, partition, offset } = letter.payload;
    assert.deepEqual([partition, offset], [0, String(index + 1)]);
    assert.equal(raw_base64, value?.toString('base64') ?? null);
    assert.equal(key_base64, message.key == null ? null : Buffer.from(message.key).toString('base64'));
    const own = index === 9 ? 'own:1' : `consumed:${topic}:0:${index + 1}`;
    assert.equal(letter.idempotency_key, own);
  }
  assert.deepEqual(rows[9]!.headers, { idempotency_key: 'own:1' });
  assert.deepEqual([rows[7]!.partition_key, rows[11]!.partition_key], ['globex', null]);
  const told = await client.query(`SELECT payload FROM core_outboxmessage WHERE topic = $1`, [
    `${topic}.dlq`,
  ]);
  assert.equal(told.rowCount, POISON.length);
  const [large] = told.rows.filter(({ payload }) => payload.reference !== null);
  assert.equal(large!.payload.dead_letter_id, rows[3]!.id);
  await pool.end();
});

test('a replay sends the bytes of what is JSON, and refuses the rest with a reason', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const pool = openPool(database.url);
  const topic = uniqueTopic();
  const place = { topic, partition: 0, timestamp: 1_700_000_000_000, key: Buffer.from('acme') };
  const json = '{"memory_id": 12345678901234567890, "tenant_id": "acme"}';
  const values = [json, 'no JSON', null, '{"nul": "\\u0000"}', '{"tiny": 1e-20000}', '["ü"]'];
  const records = values.map((value, offset): ConsumedRecord => {
    const raw = value === null ? null : Buffer.from(value);
    return { ...place, offset: String(offset), value: raw, headers: { source: Buffer.from('shop') } };
  });
  await handOver(pool, MEMORY, owners[MEMORY]!, () => {})(records);
  assert.deepEqual((await previewLetters(client, everything, undefined)).groups, [
    { topic, error_type: 'message_not_understood', letters: values.length },
  ]);
  const put = await putBack(client, { ...everything, topic }, { after: null, limit: 100 });
  assert.deepEqual([put.replays.length, put.refused], [2, 4]);
  const again = await putBack(client, { ...everything, topic }, { after: put.cursor, limit: 100 });
  assert.deepEqual([again.replays.length, again.refused], [0, 0]);
  await using reader = await readTopics([topic]);
  await using _relay = startRelay(database, 0);
  await eventually('both', () => reader.received.length === 2);
  assert.deepEqual(
    reader.received.map(({ key, value }) => [key, value]),
    [
      ['acme', json],
      ['acme', '["ü"]'],
    ],
  );
  const { headers } = reader.received[0]!;
  assert.equal(headers.source, 'shop');
  assert.equal(headers.idempotency_key, `consumed:${topic}:0:0`);
  assert.equal(headers.replayed_dead_letter, put.replays[0]!.letterId);
  const outcome = await eventually('the outcome', async () => {
    const settled = await settleReplays(client, put.replays, { by: 'test', notes: null });
    return settled.open === 0 && settled;
  });
  assert.deepEqual(outcome, { resolved: 2, failed: 0, open: 0 });
  const { rows } = await client.query(
    'SELECT resolution_notes, count(*)::int AS letters FROM core_deadlettermessage WHERE NOT resolved GROUP BY 1',
  );
  const reason = 'not replayed: the bytes of the record are no JSON that the outbox can carry';
  assert.deepEqual(rows, [{ resolution_notes: reason, letters: 4 }]);
  await pool.end();
});

test('a topic that was made anew has letters of its own at the same offsets', async () => {
  await using database = await outboxDatabase();
  const pool = openPool(database.url);
  const record = (value: string, timestamp: number): ConsumedRecord => {
    const place = { topic: 'made.anew', partition: 0, offset: '0', timestamp };
    return { ...place, key: null, value: Buffer.from(value), headers: {} };
  };
  const counts: number[] = [];
  const handle = handOver(pool, MEMORY, owners[MEMORY]!, (count) => counts.push(count));
  for (const made of [record('a', 1), record('a', 1), record('b', 1), record('a', 2)]) await handle([made]);
  assert.deepEqual(counts, [1, 0, 1, 1]);
  await pool.end();
});

test('a message under another tenant’s key is a dead letter, and changes nothing of it', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const pool = openPool(database.url);
  const record = (tenant: string, offset: number): ConsumedRecord => {
    const value = Buffer.from(JSON.stringify({ memory_id: 'm', tenant_id: tenant, payload: { tenant } }));
    const place = { topic: MEMORY, partition: 0, offset: String(offset), timestamp: 0, key: null };
    return { ...place, value, headers: { idempotency_key: Buffer.from('shared') } };
  };
  const handle = handOver(pool, MEMORY, owners[MEMORY]!, () => {});
  await handle([record('acme', 0), record('globex', 1), record('acme', 2)]);
  await client.query('UPDATE core_pendingmemory SET dead_at = now()');
  await handle([record('globex', 3)]);
  const memories = await client.query(
    'SELECT tenant_id, payload, dead_at IS NULL AS alive FROM core_pendingmemory',
  );
  assert.deepEqual(memories.rows, [{ tenant_id: 'acme', payload: { tenant: 'acme' }, alive: false }]);
  const letters = await client.query(
    `SELECT payload->>'offset' AS at, error_message FROM core_deadlettermessage ORDER BY 1`,
  );
  const error_message = 'the idempotency key belongs to another tenant or namespace';
  assert.deepEqual(letters.rows, [
    { at: '1', error_message },
    { at: '3', error_message },
  ]);
  await pool.end();
});

test('memories and letters of a batch are kept together or not at all', async () => {
  await using database = await outboxDatabase();
  const pool = openPool(database.url);
  await database.client.query(
    `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'full' USING ERRCODE = '53100'; END $$;
     CREATE TRIGGER refuse BEFORE INSERT ON core_deadlettermessage FOR EACH ROW EXECUTE FUNCTION refuse()`,
  );
  const place = { topic: MEMORY, partition: 0, timestamp: 0, key: null, headers: {} };
  const records = [good('m').value, 'bad'].map((value, offset) => ({
    ...place,
    offset: String(offset),
    value: Buffer.from(value),
  }));
  const handle = handOver(pool, MEMORY, owners[MEMORY]!, () => {});
  await assert.rejects(handle(records), { code: 'postgres_unavailable' });
  const { rowCount } = await database.client.query('SELECT FROM core_pendingmemory');
  assert.equal(rowCount, 0);
  await pool.end();
});

test('a commit in doubt, then Postgres away: the partition waits, and nothing is lost or double', async () => {
  await using database = await outboxDatabase();
  await using proxy = await postgresProxy();
  const pool = openPool(through(proxy, database.url));
  const topic = uniqueTopic();
  {
    const handle = handOver(pool, MEMORY, owners[MEMORY]!, () => {});
    await using consumer = startConsumer({ topic, handle });
    await eventually('the group', () => consumer.state().state === 'consuming');
    const inDoubt = new Loss({ direction: 'response', kind: 'COMMIT', effect: 'cut' });
    proxy.arm(inDoubt);
    const ids = Array.from({ length: 20 }, (_, number) => `m-${number}`);
    await send(topic, [...ids.map(good), { key: 'acme', value: 'bad' }]);
    await eventually('the reason', () => consumer.state().lastError?.startsWith('postgres_unavailable'));
    assert.equal(consumer.state().state, 'paused');
    assert.ok(await inDoubt.within(0));
    await eventually('no lag', async () => (await groupOffsets(topic)).committed[0] === '21');
    const kept = await database.client.query(
      'SELECT idempotency_key FROM core_pendingmemory ORDER BY sync_seq',
    );
    assert.deepEqual(
      kept.rows.map(({ idempotency_key }) => idempotency_key),
      ids.map((id) => `memory:acme:${id}`),
    );
    const letters = await database.client.query('SELECT FROM core_deadlettermessage');
    assert.equal(letters.rowCount, 1);
  }
  await pool.end();
});
