import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  composeBatch,
  describeRejection,
  MAX_RECORD_BYTES,
  type OutboxRow,
  relayTaskQueue,
  relayWorkflowId,
  shardOfWorkflowId,
  toRecord,
} from '../../src/domain/outbox.ts';

const row = (fields: Partial<OutboxRow> = {}): OutboxRow => ({
  seq: '1',
  id: 'id-1',
  idempotencyKey: 'key-1',
  topic: 'a.topic',
  key: 'k',
  value: '{}',
  valueBytes: 2,
  headers: '{}',
  ...fields,
});

describe('toRecord', () => {
  test("makes a record of the row's text, its headers and two of the relay's own", () => {
    const value = '{"n": 9007199254740993}';
    assert.deepEqual(toRecord(row({ value, headers: '{"a": "b", "message_id": "forged"}' })), {
      seq: '1',
      id: 'id-1',
      topic: 'a.topic',
      key: 'k',
      value,
      headers: { a: 'b', idempotency_key: 'key-1', message_id: 'id-1' },
    });
    const keyless = toRecord(row({ key: null }));
    assert.ok(!('code' in keyless));
    assert.equal(keyless.key, null);
  });

  const rejections: [name: string, fields: Partial<OutboxRow>, rejection: RegExp][] = [
    ['an empty topic', { topic: '' }, /^invalid_topic: topic "" is no legal Kafka topic/],
    ['a space in the topic', { topic: 'a b' }, /^invalid_topic: topic "a b"/],
    ['headers null', { headers: 'null' }, /^invalid_headers: headers are not a flat JSON object of strings/],
    ['headers in an array', { headers: '["a"]' }, /^invalid_headers: /],
    ['headers that are a string', { headers: '"a"' }, /^invalid_headers: /],
    ['a number among headers', { headers: '{"a": "b", "c": 1}' }, /^invalid_headers: /],
    ['nested headers', { headers: '{"a": {}}' }, /^invalid_headers: /],
    [
      'a payload that was not fetched',
      { value: null, valueBytes: 5_000_000 },
      /^record_too_large: .* 5000003 bytes together: at most 1000000 fit/,
    ],
    ['one byte too many', { valueBytes: MAX_RECORD_BYTES - 2 }, /^record_too_large: .* 1000001 bytes/],
    [
      'bytes of a key that are more than its characters',
      { valueBytes: MAX_RECORD_BYTES - 5, key: '🔑' },
      /^record_too_large: .* 1000001 bytes/,
    ],
    [
      'large headers',
      { headers: JSON.stringify({ a: 'x'.repeat(MAX_RECORD_BYTES) }) },
      /^record_too_large: /,
    ],
  ];

  for (const [name, fields, expected] of rejections) {
    test(`rejects ${name}`, () => {
      const made = toRecord(row(fields));
      assert.ok('code' in made);
      assert.match(describeRejection(made), expected);
    });
  }

  test('takes a record that is exactly as large as may be', () => {
    assert.ok(!('code' in toRecord(row({ valueBytes: MAX_RECORD_BYTES - 3 }))));
  });
});

describe('composeBatch', () => {
  const seqs = (rows: OutboxRow[]) => {
    const { records, rejected } = composeBatch(rows);
    return { records: records.map(({ seq }) => seq), rejected: rejected.map((made) => made.row.seq) };
  };
  const bad = { headers: '[]' };

  const cases: [name: string, rows: Partial<OutboxRow>[], records: string[], rejected: string[]][] = [
    ['nothing of nothing', [], [], []],
    ['all of good rows', [{}, { key: null }, { key: 'other' }], ['0', '1', '2'], []],
    ['rows behind a rejected one are held', [{}, bad, {}, {}], ['0'], ['1']],
    ['a second bad row of the key is held, not rejected', [bad, bad], [], ['0']],
    ['another key goes on', [bad, { key: 'other' }], ['1'], ['0']],
    ['another topic goes on', [bad, { topic: 'other' }], ['1'], ['0']],
    ['rows without a key hold nothing', [{ ...bad, key: null }, { key: null }, {}], ['1', '2'], ['0']],
    ['an empty key is a key', [{ ...bad, key: '' }, { key: '' }, { key: null }], ['2'], ['0']],
    [
      'keys that look alike when joined',
      [
        { ...bad, key: 'b', topic: 'a' },
        { key: '', topic: 'ab' },
      ],
      ['1'],
      ['0'],
    ],
  ];

  for (const [name, rows, records, rejected] of cases) {
    test(name, () => {
      const numbered = rows.map((fields, index) => row({ seq: String(index), ...fields }));
      assert.deepEqual(seqs(numbered), { records, rejected });
    });
  }

  const anyRows = fc
    .array(
      fc.record({
        key: fc.constantFrom(null, '', 'a', 'b'),
        topic: fc.constantFrom('t', 'u', 'not legal'),
        headers: fc.constantFrom('{}', '{}', '{"a":"b"}', '[]'),
        valueBytes: fc.constantFrom(2, 2, MAX_RECORD_BYTES + 1),
      }),
    )
    .map((rows) => rows.map((fields, index) => row({ seq: String(index), id: `id-${index}`, ...fields })));

  test('order is kept, every row is in one place, and only rows behind a rejected one of their key are held', () => {
    fc.assert(
      fc.property(anyRows, (rows) => {
        const { records, rejected } = seqs(rows);
        const isAscending = (list: string[]) => list.every((seq, at) => at === 0 || +seq > +list[at - 1]!);
        assert.ok(isAscending(records) && isAscending(rejected));
        assert.equal(new Set([...records, ...rejected]).size, records.length + rejected.length);
        for (const { seq, topic, key } of rows) {
          const isBehind = rejected.some((at) => {
            const earlier = rows[+at]!;
            return +at < +seq && key !== null && earlier.key === key && earlier.topic === topic;
          });
          assert.equal(isBehind, !records.includes(seq) && !rejected.includes(seq));
        }
      }),
    );
  });
});

test('A replayed message keeps its idempotency key, and nobody else can take another one', () => {
  const headers = { idempotency_key: 'original', replayed_dead_letter: 'letter-1' };
  const made = toRecord(row({ headers: JSON.stringify(headers) }));
  assert.ok(!('code' in made));
  assert.deepEqual(made.headers, { ...headers, message_id: 'id-1' });
  const unmarked = toRecord(row({ headers: '{"idempotency_key": "original"}' }));
  assert.ok(!('code' in unmarked));
  assert.equal(unmarked.headers.idempotency_key, 'key-1');
  const withoutKey = toRecord(row({ headers: '{"replayed_dead_letter": "letter-1"}' }));
  assert.ok(!('code' in withoutKey));
  assert.equal(withoutKey.headers.idempotency_key, 'key-1');
});

test("A relay workflow's id names its shard", () => {
  for (const shard of [0, 7, 63, 999]) assert.equal(shardOfWorkflowId(relayWorkflowId(shard)), shard);
  for (const id of [
    '',
    'outbox-relay-',
    'outbox-relay-x',
    'outbox-relay--1',
    'outbox-relay-1-2',
    'outbox-relay-1000',
  ]) {
    assert.equal(shardOfWorkflowId(id), undefined);
  }
  assert.equal(relayTaskQueue('somaagent-orchestrator'), 'somaagent-orchestrator-relay');
});
