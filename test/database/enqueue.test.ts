import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import type pg from 'pg';
import { migrate } from '../../src/database/migrate.ts';
import { enqueue } from '../../src/database/outbox.ts';
import { inTransaction } from '../../src/database/postgres.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import { type OutboxMessage, outboxMessageFaults } from '../../src/domain/outboxMessage.ts';
import { outboxDatabase } from '../support/database.ts';
import { djangoDatabase } from '../support/django.ts';
import { eventually } from '../support/eventually.ts';

type Database = Awaited<ReturnType<typeof outboxDatabase>>;

const message = (fields: Partial<OutboxMessage> = {}): OutboxMessage => ({
  idempotencyKey: crypto.randomUUID(),
  topic: 'conversation.inbound',
  key: 'k',
  payload: { a: 1 },
  ...fields,
});

async function storedRows(client: pg.ClientBase, idempotencyKey: string) {
  const { rows } = await client.query('SELECT * FROM core_outboxmessage WHERE idempotency_key = $1', [
    idempotencyKey,
  ]);
  return rows;
}

describe('enqueue', () => {
  let database: Database;
  before(async () => {
    database = await outboxDatabase();
  });
  after(() => database[Symbol.asyncDispose]());

  test('writes a pending row with what was given, and the rest as the platform writes it', async () => {
    const { client } = database;
    const given = message({ headers: { operation: 'upload' }, maxAttempts: 9 });
    const { id, isNew } = await enqueue(client, given);
    assert.equal(isNew, true);
    const [{ relay_seq, created_at, ...row }] = await storedRows(client, given.idempotencyKey);
    assert.ok(relay_seq && created_at);
    assert.deepEqual(row, {
      id,
      idempotency_key: given.idempotencyKey,
      topic: 'conversation.inbound',
      partition_key: 'k',
      payload: { a: 1 },
      headers: { operation: 'upload' },
      published_at: null,
      failed_at: null,
      attempts: 0,
      max_attempts: 9,
      next_retry_at: null,
      last_error: null,
      status: 'pending',
    });
  });

  test("belongs to the caller's transaction: rolled back with it, and unseen until it commits", async () => {
    const writer = await database.connect();
    const given = message();
    await writer.query('BEGIN');
    await enqueue(writer, given);
    assert.equal((await storedRows(database.client, given.idempotencyKey)).length, 0);
    await writer.query('ROLLBACK');
    assert.equal((await storedRows(database.client, given.idempotencyKey)).length, 0);
    await inTransaction(writer, () => enqueue(writer, given));
    assert.equal((await storedRows(database.client, given.idempotencyKey)).length, 1);
  });

  test('stores one idempotency key once: the second call gets the first id, and its message is dropped', async () => {
    const { client } = database;
    const given = message();
    const first = await enqueue(client, given);
    assert.deepEqual(await enqueue(client, { ...given, payload: 'other' }), { id: first.id, isNew: false });
    assert.deepEqual(
      (await storedRows(client, given.idempotencyKey)).map(({ payload }) => payload),
      [given.payload],
    );
  });

  for (const end of ['COMMIT', 'ROLLBACK'] as const) {
    test(`waits for another transaction that writes the same key, which ends by ${end}`, async () => {
      const [one, other] = [await database.connect(), await database.connect()];
      const given = message();
      await one.query('BEGIN');
      const first = await enqueue(one, given);
      await other.query('BEGIN');
      const waiting = enqueue(other, given);
      await eventually('the second to wait for the first', async () => {
        const { rows } = await database.client.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        );
        return rows.length === 1;
      });
      await one.query(end);
      const second = await waiting;
      await other.query('COMMIT');
      assert.equal(second.isNew, end === 'ROLLBACK');
      assert.equal(second.id === first.id, end === 'COMMIT');
      assert.equal((await storedRows(database.client, given.idempotencyKey)).length, 1);
    });
  }

  const circle: Record<string, unknown> = {};
  circle.circle = circle;
  const unsaid = (value: unknown) => value as string;
  const faults: [name: string, fields: Partial<OutboxMessage>, sentence: RegExp][] = [
    [
      'no idempotency key',
      { idempotencyKey: '' },
      /^idempotencyKey must be .* 1 to 255 characters.*, got ""$/,
    ],
    [
      'an idempotency key of 256',
      { idempotencyKey: 'x'.repeat(256) },
      /^idempotencyKey .*… \(258 characters\)$/,
    ],
    ['a number for an idempotency key', { idempotencyKey: unsaid(5) }, /^idempotencyKey must be .*, got 5$/],
    [
      'a bigint for an idempotency key',
      { idempotencyKey: unsaid(5n) },
      /^idempotencyKey must be .*, got bigint$/,
    ],
    ['NUL in an idempotency key', { idempotencyKey: 'a\0' }, /^idempotencyKey .*got "a\\u0000"$/],
    ['half a surrogate pair in it', { idempotencyKey: 'a\ud800' }, /^idempotencyKey .*got "a\\ud800"$/],
    ['an empty topic', { topic: '' }, /^topic must be 1 to 249 of .*, got ""$/],
    ['an illegal topic', { topic: 'a b' }, /^topic must be 1 to 249 of .*, got "a b"$/],
    ['the topic ..', { topic: '..' }, /^topic must be .*, got "\.\."$/],
    ['a key of 256 characters', { key: '🔑'.repeat(256) }, /^key must be null or a string of at most 255/],
    ['half a surrogate pair in the key', { key: '\udfff' }, /^key must be .*got "\\udfff"$/],
    ['no payload', { payload: undefined }, /^payload must be JSON, got undefined$/],
    ['a function for a payload', { payload: () => 1 }, /^payload must be JSON, got function$/],
    ['a bigint in the payload', { payload: [1n] }, /^payload must be JSON: .*BigInt/],
    ['a circle in the payload', { payload: circle }, /^payload must be JSON: .*circular/],
    ['NUL in the payload', { payload: ['\0'] }, /^payload must not contain NUL/],
    [
      'half a surrogate pair in a name',
      { payload: { '\ud83d': 1 } },
      /^payload must not contain .*surrogate/,
    ],
    [
      'headers in an array',
      { headers: unsaid(['a']) as never },
      /^headers must be a flat object.*got \["a"\]$/,
    ],
    ['headers with a circle', { headers: circle as never }, /^headers must be a flat object.*got object$/],
    ['a number in headers', { headers: { a: unsaid(1) } }, /^headers must be .*got \{"a":1\}$/],
    ['NUL in a header name', { headers: { '\0': '' } }, /^headers must be /],
    ['half a surrogate pair in a header', { headers: { a: '\ud800' } }, /^headers must be /],
    ['no attempts', { maxAttempts: 0 }, /^maxAttempts must be an integer from 1 to 2147483647, got 0$/],
    ['half an attempt', { maxAttempts: 1.5 }, /^maxAttempts must be .*got 1\.5$/],
    ['more attempts than fit', { maxAttempts: 2 ** 31 }, /^maxAttempts must be .*got 2147483648$/],
  ];

  test('names each fault in one sentence, and leaves the transaction usable', async () => {
    const { client } = database;
    await client.query('BEGIN');
    for (const [name, fields, sentence] of faults) {
      await assert.rejects(enqueue(client, message(fields)), (error: unknown) => {
        assert.ok(error instanceof OrchestratorError, name);
        assert.equal(error.code, 'invalid_message');
        assert.match(error.message, sentence, name);
        return true;
      });
    }
    assert.equal((await enqueue(client, message())).isNew, true);
    await client.query('COMMIT');
    const all = outboxMessageFaults(message({ topic: '', key: '\0', maxAttempts: -1 }));
    assert.deepEqual(
      all.map((fault) => fault.split(' ')[0]),
      ['topic', 'key', 'maxAttempts'],
    );
  });

  test('counts characters, not UTF-16 units: 255 unicorns fit each column', async () => {
    const { client } = database;
    const unicorns = '🦄'.repeat(255);
    await enqueue(
      client,
      message({ idempotencyKey: unicorns, key: unicorns, payload: { [unicorns]: unicorns } }),
    );
    const [row] = await storedRows(client, unicorns);
    assert.deepEqual([row.partition_key, row.payload], [unicorns, { [unicorns]: unicorns }]);
  });

  test('what outboxMessageFaults accepts Postgres stores unchanged, and nothing else reaches it', async () => {
    const { client } = database;
    let accepted = 0;
    await fc.assert(
      fc.asyncProperty(anyMessage, async (given) => {
        await client.query('BEGIN');
        if (outboxMessageFaults(given).length > 0) {
          await assert.rejects(enqueue(client, given), { code: 'invalid_message' });
        } else {
          await enqueue(client, given);
          accepted += 1;
        }
        const rows = await storedRows(client, given.idempotencyKey.replaceAll('\0', ''));
        await client.query('ROLLBACK');
        const expected = outboxMessageFaults(given).length > 0 ? [] : [contentOf(given)];
        assert.deepEqual(rows.map(contentOfRow), expected);
      }),
      { numRuns: 500 },
    );
    assert.ok(accepted > 50, `only ${accepted} of 500 messages were good`);
  });
});

const contentOf = ({ topic, key = null, payload, headers = {}, maxAttempts = 5 }: OutboxMessage) => ({
  topic,
  key,
  payload: JSON.parse(JSON.stringify(payload)),
  headers: { ...headers },
  maxAttempts,
});

const contentOfRow = (row: Record<string, unknown>) => ({
  topic: row.topic,
  key: row.partition_key,
  payload: row.payload,
  headers: row.headers,
  maxAttempts: row.max_attempts,
});

/** Mostly tame characters, some of them awkward: NUL, halves of surrogate pairs, controls, backslashes. */
const unit = fc.oneof(
  { weight: 60, arbitrary: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }) },
  { weight: 1, arbitrary: fc.constantFrom('\0', '\ud83d', '\udd84', '\\u0000', '\\', '\u0001', '\uffff') },
);
const text = fc.string({ unit, maxLength: 20 });

const anyMessage: fc.Arbitrary<OutboxMessage> = fc.record(
  {
    idempotencyKey: fc.oneof(
      text,
      fc.string({ unit: fc.constantFrom('🦄', 'x'), minLength: 250, maxLength: 257 }),
    ),
    topic: fc.oneof({ weight: 9, arbitrary: fc.constant('a.topic') }, { weight: 1, arbitrary: text }),
    key: fc.option(text),
    payload: fc.jsonValue({ stringUnit: unit }),
    headers: fc.dictionary(text, text, { noNullPrototype: true }),
    maxAttempts: fc.oneof(fc.integer({ min: 1 }), fc.integer({ max: 2 ** 33 })),
  },
  { requiredKeys: ['idempotencyKey', 'topic', 'payload'] },
);

test("enqueue works on Django's tables, which have no defaults, and for a role that may only write them", async () => {
  await using database = await djangoDatabase();
  await migrate(database.url);
  const { client, roles } = database;
  await client.query(`SET ROLE ${roles.neighbour}`);
  const given = message({ key: null });
  const { id } = await enqueue(client, given);
  assert.deepEqual(await enqueue(client, given), { id, isNew: false });
});
