import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { decideTakeover, FIRST_MARK, type Journal, type Mark } from '../../src/domain/outboxTakeover.ts';

const journal = (number: number, batchId: string | null, openBatchId?: string): Journal => ({
  settled: { number, batchId },
  open: openBatchId === undefined ? null : { number: number + 1, batchId: openBatchId, seqs: ['1'] },
});
const mark = (number: number, batchId: string): Mark => ({ number, batchId });

describe('decideTakeover', () => {
  const sound: [name: string, journal: Journal, mark: Mark | undefined, kind: string][] = [
    ['a new shard', journal(0, null), undefined, 'begin'],
    ['a shard that has sent nothing', journal(0, null), FIRST_MARK, 'proceed'],
    ['the first batch never got to Kafka', journal(0, null, 'a'), FIRST_MARK, 'resend'],
    ['the first batch is in Kafka', journal(0, null, 'a'), mark(1, 'a'), 'settle'],
    ['everything is settled', journal(7, 'g'), mark(7, 'g'), 'proceed'],
    ['the open batch never got to Kafka', journal(7, 'g', 'h'), mark(7, 'g'), 'resend'],
    ['the open batch is in Kafka', journal(7, 'g', 'h'), mark(8, 'h'), 'settle'],
  ];

  for (const [name, held, found, kind] of sound) {
    test(`${name}: ${kind}`, () => assert.deepEqual(decideTakeover(held, found), { kind }));
  }

  const contradictions: [name: string, journal: Journal, mark: Mark | undefined, reason: string][] = [
    [
      "Kafka lost the shard's offsets",
      journal(7, 'g'),
      undefined,
      'Postgres knows batch 7 (g) as settled and none open, Kafka knows no batch at all',
    ],
    [
      "the first batch is open, and Kafka lost the shard's offsets",
      journal(0, null, 'a'),
      undefined,
      'Postgres knows batch 0 as settled and 1 (a) as open, Kafka knows no batch at all',
    ],
    [
      'Kafka lost the offsets, a batch is open',
      journal(7, 'g', 'h'),
      undefined,
      'Postgres knows batch 7 as settled and 8 (h) as open, Kafka knows no batch at all',
    ],
    [
      'Postgres is older than Kafka',
      journal(7, 'g'),
      mark(9, 'i'),
      'Postgres knows batch 7 (g) as settled and none open, Kafka knows batch 9 (i) as its last',
    ],
    [
      'Postgres is older than Kafka, by one batch that it never opened',
      journal(7, 'g'),
      mark(8, 'h'),
      'Postgres knows batch 7 (g) as settled and none open, Kafka knows batch 8 (h) as its last',
    ],
    [
      'Postgres is new, Kafka is not',
      journal(0, null),
      mark(3, 'c'),
      'Postgres knows batch 0 (none yet) as settled and none open, Kafka knows batch 3 (c) as its last',
    ],
    [
      'Postgres is new and has opened a batch, Kafka has another',
      journal(0, null, 'a'),
      mark(1, 'z'),
      'Postgres knows batch 0 as settled and 1 (a) as open, Kafka knows batch 1 (z) as its last',
    ],
    [
      'Kafka is older than Postgres',
      journal(7, 'g', 'h'),
      mark(5, 'e'),
      'Postgres knows batch 7 as settled and 8 (h) as open, Kafka knows batch 5 (e) as its last',
    ],
    [
      'the settled numbers agree, the batches do not',
      journal(7, 'g'),
      mark(7, 'x'),
      'Postgres knows batch 7 (g) as settled and none open, Kafka knows batch 7 (x) as its last',
    ],
    [
      "the open batch's number is there under another id",
      journal(7, 'g', 'h'),
      mark(8, 'x'),
      'Postgres knows batch 7 as settled and 8 (h) as open, Kafka knows batch 8 (x) as its last',
    ],
    [
      'Kafka is ahead of the open batch',
      journal(7, 'g', 'h'),
      mark(9, 'i'),
      'Postgres knows batch 7 as settled and 8 (h) as open, Kafka knows batch 9 (i) as its last',
    ],
  ];

  for (const [name, held, found, reason] of contradictions) {
    test(`${name}: stop`, () => assert.deepEqual(decideTakeover(held, found), { kind: 'stop', reason }));
  }

  const number = fc.nat({ max: 3 });
  const batchId = fc.constantFrom('a', 'b', 'c');
  const anyJournal = fc
    .record({ number, settledId: batchId, openId: fc.option(batchId, { nil: undefined }) })
    // Only what the journal can hold: before the first batch there is no id, and every batch has one of its own.
    .filter(({ number, settledId, openId }) => number === 0 || openId !== settledId)
    .map(({ number, settledId, openId }) => journal(number, number === 0 ? null : settledId, openId));
  const anyMark = fc.option(
    fc.oneof(fc.constant(FIRST_MARK), fc.record({ number: number.map((n) => n + 1), batchId })),
    { nil: undefined },
  );

  test('It settles, resends or proceeds for the exact matches only, begins with nothing, and stops for all the rest', () => {
    fc.assert(
      fc.property(anyJournal, anyMark, (held, found) => {
        const { settled, open } = held;
        const isOpen = found !== undefined && found.number === open?.number && found.batchId === open.batchId;
        const last = settled.number === 0 ? FIRST_MARK.batchId : settled.batchId;
        const isSettled = found?.number === settled.number && found.batchId === last;
        const isNew = found === undefined && settled.number === 0 && !open;
        const settledKind = open ? 'resend' : 'proceed';
        const otherwise = isNew ? 'begin' : 'stop';
        const expected = isOpen ? 'settle' : isSettled ? settledKind : otherwise;
        assert.equal(decideTakeover(held, found).kind, expected);
      }),
      { numRuns: 2_000 },
    );
  });
});
