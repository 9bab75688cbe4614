import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import {
  advance,
  maintenanceInputFaults,
  PURGE_BATCH_ROWS,
  type PurgedBatch,
  type PurgeProgress,
  type PurgeStage,
  pauseAfter,
  purgeStart,
} from '../../src/domain/maintenance.ts';

test('the pause leaves four fifths of the time to others, and has an end', () => {
  assert.equal(pauseAfter(10), 40);
  assert.equal(pauseAfter(0), 0);
  assert.equal(pauseAfter(10_000), 5_000);
});

/** A table in memory: the time of each row, and whether it may go. `deleteBatch` does what the SQL does. */
class Table {
  rows: { at: number; due: boolean }[];

  constructor(rows: { at: number; due: boolean }[]) {
    this.rows = rows.toSorted((one, other) => one.at - other.at);
  }

  deleteBatch(from: string, limit: number): PurgedBatch {
    const behind = this.rows.filter(({ at }) => from.startsWith('4713') || at >= Number(from));
    const seen = behind.slice(0, limit);
    const gone = new Set(seen.filter(({ due }) => due));
    this.rows = this.rows.filter((row) => !gone.has(row));
    const last = seen.at(-1)?.at;
    return {
      rows: gone.size,
      last: last === undefined ? null : String(last),
      beyond: last === undefined ? null : String(last + 1),
      more: seen.length === limit,
    };
  }
}

function walk(filled: Partial<Record<PurgeStage, Table>>, limit: number): PurgeProgress {
  let progress = purgeStart();
  const empty = new Table([]);
  const tables = { published: empty, idempotency: empty, health: empty, uploads: empty, ...filled };
  const most = 2 * (tables.published.rows.length + tables.idempotency.rows.length) + 10;
  for (let batches = 0; progress.stage !== 'done'; batches += 1) {
    assert.ok(batches < most, `no end after ${batches} batches at ${JSON.stringify(progress)}`);
    progress = advance(progress, tables[progress.stage].deleteBatch(progress.from, limit));
  }
  return progress;
}

suite('a walk', () => {
  const table = (times: number) =>
    fc
      .array(fc.record({ at: fc.integer({ min: 0, max: times }), due: fc.boolean() }), { maxLength: 80 })
      .map((rows) => new Table(rows));

  test('always ends, counts what went, and takes no row that has to stay', () => {
    fc.assert(
      fc.property(table(8), table(8), fc.integer({ min: 1, max: 10 }), (published, idempotency, limit) => {
        const before = { published: published.rows, idempotency: idempotency.rows };
        const { purged } = walk({ published, idempotency }, limit);
        for (const [stage, { rows }] of Object.entries({ published, idempotency })) {
          const was = before[stage as keyof typeof before];
          assert.equal(purged[stage as keyof typeof purged], was.length - rows.length);
          assert.equal(rows.filter(({ due }) => !due).length, was.filter(({ due }) => !due).length);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('takes every row that is due, where no batch is filled by rows of one time that have to stay', () => {
    fc.assert(
      fc.property(table(8), table(8), (published, idempotency) => {
        // No more than 80 rows each: none of their times fills a batch.
        walk({ published, idempotency }, PURGE_BATCH_ROWS / 5);
        const due = [...published.rows, ...idempotency.rows].filter((row) => row.due);
        assert.deepEqual(due, []);
      }),
    );
    const tied = [...Array(3).fill({ at: 5, due: false }), { at: 5, due: true }, { at: 6, due: true }];
    const published = new Table(tied);
    const idempotency = new Table([{ at: 1, due: true }]);
    const { purged } = walk({ published, idempotency }, 3);
    assert.equal(
      purged.published,
      1,
      'what is tied with rows that stay waits for a later purge, the next one goes',
    );
    assert.equal(purged.idempotency, 1, 'the second stage begins at its own beginning');
  });

  test('that an earlier version began counts from nothing what that did not know', () => {
    const begun = {
      ...purgeStart(),
      stage: 'health',
      purged: { published: 3, idempotency: 2 },
    } as PurgeProgress;
    assert.deepEqual(maintenanceInputFaults({ progress: begun }), []);
    const { purged } = advance(begun, { rows: 4, last: '1', beyond: '2', more: true });
    assert.deepEqual(purged, { published: 3, idempotency: 2, health: 4, uploads: 0 });
  });

  test('that is done stays done', () => {
    const done: PurgeProgress = { ...purgeStart(), stage: 'done' };
    assert.equal(advance(done, { rows: 3, last: '1', beyond: '2', more: true }), done);
  });
});

suite('input', () => {
  for (const input of [
    {},
    { dryRun: true },
    { dryRun: false },
    { progress: purgeStart(), historyLimit: 5 },
    { sweep: { swept: { stranded: 1, leftovers: 0, spool_files: 0 }, unreachable: { s3: 'away' } } },
  ]) {
    test(`${JSON.stringify(input)} is good`, () => assert.deepEqual(maintenanceInputFaults(input), []));
  }

  for (const [input, sentence] of [
    [null, /takes no input, or an object: got null/],
    ['now', /got "now"/],
    [[true], /got \[true\]/],
    [{ dryRun: 'yes' }, /^dryRun must be true or false: got "yes"$/],
    [{ dryRun: null }, /^dryRun must be true or false: got null$/],
    [{ dryrun: true }, /^dryrun is no field: expected dryRun, or nothing; got true$/],
    [{ constructor: true }, /^constructor is no field/],
    [{ retentionDays: 1 }, /^retentionDays is no field/],
    [{ sweep: { swept: { stranded: 1 } } }, /^sweep must be what an earlier run left/],
    [{ historyLimit: 1 }, /^historyLimit must be a whole number from 5 on: got 1$/],
    [{ progress: {} }, /^progress must be what an earlier run left/],
    [{ progress: { ...purgeStart(), stage: 'pending' } }, /^progress must be/],
    [{ progress: { ...purgeStart(), purged: { health: '1' } } }, /^progress must be/],
    [{ dryRun: 'x'.repeat(10_000) }, /^.{1,300}$/],
  ] as const) {
    test(`${JSON.stringify(input).slice(0, 60)} is named`, () => {
      assert.match(maintenanceInputFaults(input).join('; '), sentence);
    });
  }

  test('all faults are said at once', () => {
    assert.equal(maintenanceInputFaults({ dryRun: 1, dryrun: 2, historyLimit: 0 }).length, 3);
  });
});
