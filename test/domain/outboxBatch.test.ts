import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { composeBatch, judgeRetries, MAX_RECORD_BYTES, type OutboxRow } from '../../src/domain/outbox.ts';
import { OutboxTopics } from '../../src/domain/outboxTopics.ts';
import type { TopicFacts } from '../../src/domain/topics.ts';

const now = 10_000;
const forbidden = { code: 'topic_forbidden', message: 'no right' } as const;

const facts = (fields: Partial<TopicFacts>): TopicFacts => ({
  partitions: 6,
  maxMessageBytes: 1_048_588,
  compacted: false,
  ...fields,
});
/** `small` takes 2,000 bytes, `compacted` needs keys, `bad` is condemned, `odd` and `strange` are suspected. */
const known = () => {
  const topics = new OutboxTopics();
  topics.learn('small', facts({ maxMessageBytes: 2_000 }), now);
  topics.learn('compacted', facts({ compacted: true }), now);
  topics.learn('stale', facts({ maxMessageBytes: 2_000, compacted: true }), now - 5_000);
  topics.condemn('bad', forbidden, now - 1_000);
  topics.suspect(['odd', 'strange']);
  return topics;
};
const numbered = (rows: Partial<OutboxRow>[]): OutboxRow[] =>
  rows.map((fields, index) => ({
    seq: String(index),
    id: `id-${index}`,
    idempotencyKey: 'i'.repeat(50),
    topic: 'a.topic',
    key: 'k',
    value: '{}',
    valueBytes: 2,
    headers: '{}',
    ...fields,
  }));
const compose = (rows: OutboxRow[]) => {
  const { records, rejected } = composeBatch(rows, known(), now);
  return {
    records: records.map(({ seq }) => seq),
    rejected: rejected.map((made) => [made.row.seq, made.rejection.code]),
  };
};

type Case = [name: string, rows: Partial<OutboxRow>[], records: string[], rejected: [string, string][]];
const small = { topic: 'small', valueBytes: 700 };
const cases: Case[] = [
  [
    'a record that its topic does not take',
    [{ ...small, valueBytes: 2_001 }],
    [],
    [['0', 'record_too_large']],
  ],
  [
    'what the topic is known to take no more from long ago',
    [{ topic: 'stale', valueBytes: 2_001 }],
    ['0'],
    [],
  ],
  ['as many as the topic takes at once', [small, small, small, {}, small], ['0', '1', '3'], []],
  [
    'what is passed over for want of room is passed over to the end, in any key',
    [small, { ...small, valueBytes: 300 }, small, { ...small, key: 'other', valueBytes: 2 }],
    ['0', '1'],
    [],
  ],
  ['the first record goes even if it may not fit', [{ ...small, valueBytes: 1_990 }, small], ['0'], []],
  ['room of another topic', [small, small, { ...small, topic: 'a.topic' }], ['0', '1', '2'], []],
  [
    'no key where one is needed',
    [{ topic: 'compacted', key: null }, { topic: 'compacted' }],
    ['1'],
    [['0', 'invalid_record']],
  ],
  ['no key, but that was long ago', [{ topic: 'stale', key: null }], ['0'], []],
  [
    'each key of a condemned topic, once',
    [{ topic: 'bad' }, {}, { topic: 'bad', key: 'other' }, { topic: 'bad' }],
    ['1'],
    [
      ['0', 'topic_forbidden'],
      ['2', 'topic_forbidden'],
    ],
  ],
  ['a suspected topic in front travels alone', [{ topic: 'odd' }, {}, { topic: 'odd' }], ['0'], []],
  ['a suspected topic behind waits', [{}, { topic: 'odd' }, {}, { topic: 'odd', key: null }], ['0', '2'], []],
  ['two suspected topics', [{ topic: 'odd' }, { topic: 'strange' }], ['0'], []],
  [
    'a rejected row in front keeps a suspected topic from nothing',
    [{ topic: 'odd', headers: '[]' }, { topic: 'odd' }, { topic: 'odd', key: 'other' }],
    ['2'],
    [['0', 'invalid_headers']],
  ],
];
for (const [name, rows, records, rejected] of cases) {
  test(name, () => assert.deepEqual(compose(numbered(rows)), { records, rejected }));
}

const anyRows = fc
  .array(
    fc.record({
      key: fc.constantFrom(null, '', 'a', 'b'),
      topic: fc.oneof(
        { weight: 2, arbitrary: fc.constant('small') },
        {
          weight: 3,
          arbitrary: fc.constantFrom('free', 'compacted', 'stale', 'bad', 'odd', 'strange', 'not legal'),
        },
      ),
      headers: fc.constantFrom('{}', '{}', '{}', '[]'),
      valueBytes: fc.constantFrom(2, 300, 700, 1_999, 2_001, MAX_RECORD_BYTES + 1),
    }),
    { maxLength: 40 },
  )
  .map(numbered);
const isSame = (one: OutboxRow, other: OutboxRow) =>
  one.topic === other.topic && one.key !== null && one.key === other.key;

test('each row is in one place, nothing overtakes within a key, topics get what they take, and there is progress', () => {
  fc.assert(
    fc.property(anyRows, (rows) => {
      const made = compose(rows);
      const sent = made.records.map((seq) => rows[+seq]!);
      const rejected = made.rejected.map(([seq]) => rows[+seq!]!);
      const placed = [...sent, ...rejected];
      assert.equal(new Set(placed).size, placed.length);
      assert.deepEqual(
        made.records,
        [...made.records].sort((one, other) => +one - +other),
      );
      for (const record of sent) {
        const before = rows.filter((other) => isSame(record, other) && +other.seq < +record.seq);
        assert.ok(before.every((other) => sent.includes(other)));
      }
      const toSmall = sent.filter(({ topic }) => topic === 'small');
      const bytes = toSmall.reduce((sum, { valueBytes }) => sum + valueBytes + 50 + 150, 0);
      assert.ok(bytes <= 2_000 || toSmall.length === 1);
      const suspected = sent.filter(({ topic }) => topic === 'odd' || topic === 'strange');
      assert.ok(suspected.length === 0 || sent.length === 1);
      assert.ok(rows.length === 0 || placed.length > 0);
    }),
    { numRuns: 1_000 },
  );
});

test('claimed again and again, every row is sent or rejected, in few batches', () => {
  fc.assert(
    fc.property(anyRows, (rows) => {
      let left = rows;
      for (let batches = 0; left.length > 0; batches += 1) {
        assert.ok(batches <= rows.length);
        const { records, rejected } = compose(
          left.map((other) => ({ ...other, seq: String(left.indexOf(other)) })),
        );
        const gone = new Set([...records, ...rejected.map(([seq]) => seq)]);
        const held = rejected.map(([seq]) => left[+seq!]!);
        // Rows behind a rejected one are no longer claimed.
        left = left.filter(
          (other, at) => !gone.has(String(at)) && !held.some((parked) => isSame(parked, other)),
        );
      }
    }),
  );
});

const judge = (rows: OutboxRow[], topics = known()) => {
  const { refused, released } = judgeRetries(rows, topics, now);
  return { refused: refused.map(({ row }) => row.seq), released: released.map(({ seq }) => seq) };
};

const retries: [name: string, rows: Partial<OutboxRow>[], refused: string[], released: string[]][] = [
  [
    'what no record can be made of, of each row',
    [{ headers: '[]' }, { headers: '[]' }, {}],
    ['0', '1'],
    ['2'],
  ],
  ['a topic condemned moments ago', [{ topic: 'bad' }, { topic: 'bad', key: 'other' }], ['0', '1'], []],
  ['a limit that is known from long ago is asked anew', [{ topic: 'stale', valueBytes: 2_001 }], [], ['0']],
  [
    'of each suspected topic one row finds out',
    [{ topic: 'odd' }, { topic: 'strange' }, { topic: 'odd', key: 'other' }],
    [],
    ['0', '1'],
  ],
];
for (const [name, rows, refused, released] of retries) {
  test(`tried again: ${name}`, () => assert.deepEqual(judge(numbered(rows)), { refused, released }));
}

test('tried again, a row is refused where a batch of it alone would reject it, and some row always gets an answer', () => {
  fc.assert(
    fc.property(anyRows, (rows) => {
      const { refused, released } = judge(rows);
      const isRejected = (row: OutboxRow) => composeBatch([row], known(), now).rejected.length === 1;
      assert.deepEqual(
        refused,
        rows.filter(isRejected).map(({ seq }) => seq),
      );
      assert.ok(released.every((seq) => !refused.includes(seq)));
      assert.ok(rows.length === 0 || refused.length + released.length > 0);
    }),
  );
});
