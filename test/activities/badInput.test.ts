import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type pg from 'pg';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type Received, readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows, type Row } from '../support/outbox.ts';
import { startRelay } from '../support/relay.ts';

interface StoredRow {
  status: string;
  attempts: number;
  last_error: string | null;
  failed_at: Date | null;
  published_at: Date | null;
  /** Seconds from now to the next attempt. */
  wait: number | null;
}

async function stored(client: pg.ClientBase, id: string | undefined): Promise<StoredRow> {
  const { rows } = await client.query<StoredRow>(
    `SELECT status, attempts, last_error, failed_at, published_at,
       extract(epoch FROM next_retry_at - clock_timestamp())::float8 AS wait
     FROM core_outboxmessage WHERE id = $1`,
    [id],
  );
  return rows[0]!;
}

const parked = (client: pg.ClientBase, id: string | undefined, attempts: number): Promise<StoredRow> =>
  eventually(`row ${id} to be parked for the ${attempts}. time`, async () => {
    const row = await stored(client, id);
    return row.status === 'failed' && row.attempts === attempts ? row : undefined;
  });

const find = (received: Received[], key: string): Promise<Received> =>
  eventually(`a record of key ${key}`, () => received.find((record) => record.key === key));

/** A relay, a reader of a topic of its own, and the database that they share. */
async function rig() {
  const stack = new AsyncDisposableStack();
  const topic = uniqueTopic();
  const database = stack.use(await outboxDatabase());
  const reader = stack.use(await readTopics([topic]));
  const start = () => stack.use(startRelay(database, 0));
  return {
    topic,
    database,
    client: database.client,
    received: reader.received,
    start,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

type Rig = Awaited<ReturnType<typeof rig>>;

describe('Payloads', () => {
  const huge = 'x'.repeat(900_000);
  const payloads: [name: string, payload: unknown, value: string][] = [
    ['null', null, 'null'],
    ['a number', 42.5, '42.5'],
    ['a string', 'plain "text" \\ é', '"plain \\"text\\" \\\\ é"'],
    ['true', true, 'true'],
    ['an empty array', [], '[]'],
    ['a string of 900 kB', huge, `"${huge}"`],
    ['characters beyond 16 bits', { '🦄': '𝒳 \u2028 \u0001' }, '{"🦄": "𝒳 \u2028 \\u0001"}'],
  ];

  test('Any JSON value arrives as it is stored', async () => {
    await using rigged = await rig();
    const { client, received, topic } = rigged;
    await insertRows(
      client,
      payloads.map(([key, payload]) => ({ topic, key, payload })),
    );
    rigged.start();
    for (const [key, , value] of payloads) assert.equal((await find(received, key)).value, value, key);
  });

  test('Numbers keep all of their digits, however many they have', async () => {
    const numbers = ['9007199254740993', '0.1000000000000000055511151231257827', '-12345678901234567890.50'];
    await using rigged = await rig();
    const { client, received, topic } = rigged;
    for (const number of [...numbers, '1e400']) {
      await insertRows(client, [{ topic, key: number }]);
      await client.query(`UPDATE core_outboxmessage SET payload = $1 WHERE partition_key = $2`, [
        `{"n": ${number}}`,
        number,
      ]);
    }
    rigged.start();
    for (const number of numbers) assert.equal((await find(received, number)).value, `{"n": ${number}}`);
    assert.equal((await find(received, '1e400')).value, `{"n": 1${'0'.repeat(400)}}`);
  });
});

describe('Keys and headers', () => {
  test('Keys of any characters arrive, up to 255 of them; Postgres itself refuses a longer one', async () => {
    const keys = ['', ' ', 'ключ/鍵/🔑', '🔑'.repeat(255), 'null', '"quoted\'; --'];
    await using rigged = await rig();
    const { client, received, topic } = rigged;
    await insertRows(
      client,
      keys.map((key) => ({ topic, key })),
    );
    await assert.rejects(insertRows(client, [{ topic, key: 'k'.repeat(256) }]), { code: '22001' });
    rigged.start();
    for (const key of keys) await find(received, key);
    await eventually('nothing else', () => received.length === keys.length);
  });

  test("A record carries the row's headers, its idempotency key and its id; the last two win", async () => {
    await using rigged = await rig();
    const { client, received, topic } = rigged;
    const headers = { event_type: 'degradation', 'ü ñ': 'Grüße 🦄', empty: '' };
    const claimed = { idempotency_key: 'not mine', message_id: 'nor this', event_type: 'x' };
    const idempotencyKey = 'degradation:базa:1';
    const [first, second] = await insertRows(client, [
      { topic, key: 'own', headers, idempotencyKey },
      { topic, key: 'taken', headers: claimed },
    ]);
    rigged.start();
    const own = await find(received, 'own');
    assert.deepEqual(own.headers, { ...headers, idempotency_key: idempotencyKey, message_id: first });
    assert.deepEqual((await find(received, 'taken')).headers, {
      event_type: 'x',
      idempotency_key: second,
      message_id: second,
    });
  });
});

describe('Rows that no record can be made of', () => {
  const bad: [name: string, row: Partial<Row>, error: RegExp][] = [
    ['a payload of 2 MB', { payload: 'x'.repeat(2_000_000) }, /^record_too_large: .* 2000\d\d\d bytes/],
    [
      'a payload just too large',
      { payload: 'x'.repeat(1_000_000) },
      /^record_too_large: .* 1000\d\d\d bytes/,
    ],
    ['headers that are an array', { headers: ['a'] }, /^invalid_headers: /],
    ['nested headers', { headers: { a: { b: 'c' } } }, /^invalid_headers: /],
    ['a header that is a number', { headers: { retries: 1 } }, /^invalid_headers: /],
    ['a header that is null', { headers: { a: null } }, /^invalid_headers: /],
    ['headers null', { headers: null }, /^invalid_headers: /],
    ['headers that are a string', { headers: 'a=b' }, /^invalid_headers: /],
    ['an empty topic', { topic: '' }, /^invalid_topic: topic "" is no legal Kafka topic/],
    ['an illegal topic name', { topic: 'a b/c' }, /^invalid_topic: topic "a b\/c"/],
    ['the topic .', { topic: '.' }, /^invalid_topic: topic "\."/],
    ['the topic ..', { topic: '..' }, /^invalid_topic: topic "\.\."/],
    ['a topic of 250 characters', { topic: 't'.repeat(250) }, /^invalid_topic: /],
  ];

  let rigged: Rig;
  const ids = new Map<string, string[]>();

  before(async () => {
    rigged = await rig();
    const { client, topic } = rigged;
    for (const [key, row] of bad) {
      const rows = [
        { topic, key: `before ${key}` },
        { topic, key, ...row },
        { topic: row.topic ?? topic, key, payload: 'behind' },
        // The same key in another topic where the topic is at fault, and else another key.
        { topic, key: row.topic === undefined ? `another ${key}` : key },
        { topic, key: `after ${key}` },
      ];
      ids.set(key, await insertRows(client, rows));
    }
    rigged.start();
    await eventually(
      'all bad rows to be parked',
      async () => (await countByStatus(client)).failed === bad.length,
    );
    await client.query(
      `UPDATE core_outboxmessage SET next_retry_at = now() + interval '1 day' WHERE status = 'failed'`,
    );
  });
  after(() => rigged[Symbol.asyncDispose]());

  for (const [name, , error] of bad) {
    test(`${name}: the row is parked, rows of its key wait, all others arrive`, async () => {
      const { client, received } = rigged;
      const [first, culprit, behind, other, last] = ids.get(name)!;
      const row = await stored(client, culprit);
      assert.match(row.last_error ?? '', error);
      assert.equal(row.published_at, null);
      assert.equal((await stored(client, behind)).status, 'pending');
      const has = (id: string | undefined) => received.some(({ headers }) => headers.message_id === id);
      await eventually('the others', () => has(first) && has(other) && has(last));
      assert.ok(!has(culprit) && !has(behind));
    });
  }
});

describe('The life of a parked row', () => {
  test('Each attempt doubles the wait, and after the last one the row is dead and its key goes on', async () => {
    await using rigged = await rig();
    const { client, topic, received } = rigged;
    const [culprit, behind] = await insertRows(client, [
      { topic, key: 'k', headers: [] },
      { topic, key: 'k' },
    ]);
    await client.query('UPDATE core_outboxmessage SET max_attempts = 3 WHERE id = $1', [culprit]);
    rigged.start();
    for (const expected of [1, 2]) {
      const row = await parked(client, culprit, expected);
      assert.ok(row.wait !== null && row.wait <= 2 ** expected, `due in ${row.wait} s`);
      assert.equal(row.failed_at, null, 'not for good yet');
      assert.equal((await stored(client, behind)).status, 'pending');
      await client.query('UPDATE core_outboxmessage SET next_retry_at = now() WHERE id = $1', [culprit]);
    }
    const { headers } = await find(received, 'k');
    assert.equal(headers.message_id, behind);
    const { status, attempts, wait, failed_at } = await stored(client, culprit);
    assert.deepEqual({ status, attempts, wait }, { status: 'dead', attempts: 3, wait: null });
    assert.notEqual(failed_at, null);
  });

  test('Failed without next_retry_at, a row is due at once, as the platform means it', async () => {
    await using rigged = await rig();
    const { client, topic, received } = rigged;
    const [exhausted] = await insertRows(client, [
      { topic, key: 'exhausted', headers: [] },
      { topic, key: 'mended' },
      { topic, key: 'left over' },
    ]);
    await client.query(
      `UPDATE core_outboxmessage SET status = 'failed', attempts = CASE partition_key WHEN 'left over' THEN 4 ELSE 5 END`,
    );
    rigged.start();
    await find(received, 'left over');
    await find(received, 'mended');
    await eventually('the third to be dead', async () => (await stored(client, exhausted)).status === 'dead');
  });

  test('However many attempts a row claims to have had, it is parked and nothing else is stopped', async () => {
    await using rigged = await rig();
    const { client, topic, received } = rigged;
    const [culprit] = await insertRows(client, [
      { topic, key: 'k', headers: [] },
      { topic, key: 'good' },
    ]);
    await client.query('UPDATE core_outboxmessage SET attempts = 5000, max_attempts = 100000 WHERE id = $1', [
      culprit,
    ]);
    rigged.start();
    await parked(client, culprit, 5_001);
    await find(received, 'good');
  });

  test('Mended by SQL and due, a row is delivered before the later ones of its key', async () => {
    await using rigged = await rig();
    const { client, topic, received } = rigged;
    const rows = [...'abcde'].map((payload) => ({ topic, key: 'k', payload }));
    const [first, ...others] = await insertRows(client, [{ ...rows[0]!, headers: [] }, ...rows.slice(1)]);
    rigged.start();
    await parked(client, first, 1);
    await client.query(`UPDATE core_outboxmessage SET headers = '{}', next_retry_at = now() WHERE id = $1`, [
      first,
    ]);
    await eventually('the key to arrive', () => received.length === rows.length);
    assert.deepEqual(
      received.map(({ headers }) => headers.message_id),
      [first, ...others],
    );
    // Consumers see a batch a moment before its rows are marked.
    const { last_error } = await eventually('the row to be marked', async () => {
      const row = await stored(client, first);
      return row.published_at && row.status === 'published' ? row : undefined;
    });
    assert.equal(last_error, null);
  });

  test('Moved to a legal topic, a row is delivered there, and no longer holds back its old key', async () => {
    await using rigged = await rig();
    const { client, topic, received } = rigged;
    const [moved, stays] = await insertRows(client, [
      { topic: 'no topic', key: 'k' },
      { topic: 'no topic', key: 'k' },
      { topic, key: 'k' },
    ]);
    rigged.start();
    await parked(client, moved, 1);
    await client.query('UPDATE core_outboxmessage SET topic = $2, next_retry_at = now() WHERE id = $1', [
      moved,
      topic,
    ]);
    await eventually('both to arrive', () => received.length === 2);
    assert.equal(received[1]?.headers.message_id, moved);
    await parked(client, stays, 1);
  });
});
