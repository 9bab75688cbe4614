import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import {
  type BackupRun,
  DEFAULT_MINIMUM,
  decideRetention,
  policyFaults,
  type RetentionPolicy,
} from '../../src/domain/backupRetention.ts';

const DAY_MS = 86_400_000;
const at = (time: string): number => Date.parse(time);

const run = (id: string, time: string, own: Partial<BackupRun> = {}): BackupRun => ({
  id,
  startedAt: at(time),
  state: 'verified',
  hold: null,
  ...own,
});

/** Verified runs that are named by their times. */
const runs = (...times: string[]): BackupRun[] => times.map((time) => run(time, time));

const kept = (all: BackupRun[], policy: RetentionPolicy): string[] =>
  decideRetention(all, { minimum: 0, ...policy })
    .filter(({ keep }) => keep)
    .map(({ id }) => id);

suite('what a rule keeps', () => {
  const days = runs(
    '2026-03-01T02:00Z',
    '2026-03-02T02:00Z',
    '2026-03-02T14:00Z',
    '2026-03-03T02:00Z',
    '2026-03-07T02:00Z',
  );
  const cases: [what: string, all: BackupRun[], policy: RetentionPolicy, expected: string[]][] = [
    ['last: the newest', days, { last: 2 }, ['2026-03-07T02:00Z', '2026-03-03T02:00Z']],
    [
      'daily: the newest of each day that has one',
      days,
      { daily: 3 },
      ['2026-03-07T02:00Z', '2026-03-03T02:00Z', '2026-03-02T14:00Z'],
    ],
    [
      'within: counted from the newest, not from today',
      days,
      { withinDays: 4 },
      ['2026-03-07T02:00Z', '2026-03-03T02:00Z'],
    ],
    [
      'the rules add up',
      days,
      { last: 1, withinDays: 4, daily: 3 },
      ['2026-03-07T02:00Z', '2026-03-03T02:00Z', '2026-03-02T14:00Z'],
    ],
    [
      'weekly: weeks begin on Monday, also across a year',
      runs('2025-12-28T12:00Z', '2025-12-29T12:00Z', '2026-01-04T23:59Z', '2026-01-05T00:00Z'),
      { weekly: 2 },
      ['2026-01-05T00:00Z', '2026-01-04T23:59Z'],
    ],
    [
      'monthly: the same month of another year is another month',
      runs('2025-01-31T00:00Z', '2026-01-01T00:00Z', '2026-01-31T00:00Z'),
      { monthly: 2 },
      ['2026-01-31T00:00Z', '2025-01-31T00:00Z'],
    ],
    [
      'yearly',
      runs('2023-06-01T00:00Z', '2024-02-29T00:00Z', '2024-12-31T23:59Z', '2026-01-01T00:00Z'),
      { yearly: 2 },
      ['2026-01-01T00:00Z', '2024-12-31T23:59Z'],
    ],
    [
      'the oldest stands in for a past that is not there yet',
      runs('2026-01-05T00:00Z', '2026-01-06T00:00Z', '2026-01-07T00:00Z'),
      { monthly: 6 },
      ['2026-01-07T00:00Z', '2026-01-05T00:00Z'],
    ],
  ];
  for (const [what, all, policy, expected] of cases)
    test(what, () => assert.deepEqual(kept(all, policy).toSorted(), expected.toSorted()));

  test('restic, from its documentation: one a day on Sundays only, keep-daily 4 keeps four Sundays', () => {
    const sundays = runs(
      '2026-02-01T11:00Z',
      '2026-02-08T11:00Z',
      '2026-02-15T11:00Z',
      '2026-02-22T11:00Z',
      '2026-03-01T11:00Z',
    );
    assert.deepEqual(
      kept(sundays, { daily: 4 }),
      sundays
        .slice(1)
        .reverse()
        .map(({ id }) => id),
    );
  });
});

suite('safeguards', () => {
  const three = runs('2026-03-01T02:00Z', '2026-03-02T02:00Z', '2026-03-03T02:00Z');

  test('every decision says why', () => {
    assert.deepEqual(
      decideRetention([...three.slice(1), run('held', '2026-01-01T00:00Z', { hold: 'audit' })], {
        last: 1,
        minimum: 1,
      }),
      [
        { id: '2026-03-03T02:00Z', keep: true, reasons: ['the last good one', 'one of the last'] },
        { id: '2026-03-02T02:00Z', keep: false, reasons: ['no rule keeps it'] },
        { id: 'held', keep: true, reasons: ['on hold: audit'] },
      ],
    );
  });

  test('a minimum is left, the newest first', () => {
    assert.equal(decideRetention(three, { last: 1 }).filter(({ keep }) => keep).length, DEFAULT_MINIMUM);
    assert.deepEqual(kept(three, { last: 1, minimum: 2 }), ['2026-03-03T02:00Z', '2026-03-02T02:00Z']);
  });

  for (const state of ['failed', 'cancelled'] as const)
    test(`nothing goes after a run that was ${state}`, () => {
      const after = decideRetention([...three, run('bad', '2026-03-04T02:00Z', { state })], {
        last: 1,
        minimum: 0,
      });
      assert.deepEqual(
        after.map(({ id, keep }) => [id, keep]),
        three.map(({ id }) => [id, true]).reverse(),
      );
      assert.match(after[0]!.reasons[0]!, new RegExp(`last run ${state}`));
    });

  test('a run that is under way is waited for by nobody, and an earlier failure is forgotten after a success', () => {
    const all = [
      run('bad', '2026-03-02T12:00Z', { state: 'failed' }),
      ...three,
      run('busy', '2026-03-04T02:00Z', { state: 'running' }),
    ];
    assert.deepEqual(kept(all, { last: 1 }), ['2026-03-03T02:00Z']);
  });

  test('a policy that would keep nothing, or that is no policy, removes nothing and is told', () => {
    for (const policy of [
      {},
      { minimum: 5 },
      { last: 0, daily: 0 },
      { last: -1 },
      { last: 1.5 },
      { hourly: 3, last: 1 } as RetentionPolicy,
    ]) {
      assert.ok(policyFaults(policy).length > 0, JSON.stringify(policy));
      assert.ok(
        decideRetention(three, policy).every(({ keep }) => keep),
        JSON.stringify(policy),
      );
    }
    assert.deepEqual(policyFaults({ last: 1 }), []);
  });

  test('nothing is decided about nothing', () => assert.deepEqual(decideRetention([], { last: 1 }), []));
});

const counts = (most: number) => fc.integer({ min: 0, max: most });
const policies = fc.record(
  {
    last: counts(10),
    daily: counts(20),
    weekly: counts(8),
    monthly: counts(12),
    yearly: counts(10),
    withinDays: counts(40),
    minimum: counts(4),
  },
  { requiredKeys: [] },
);

/** Runs as a Schedule makes them, over ten years, with failures, doubles and gaps mixed in. */
const schedules = fc
  .record({
    everyHours: fc.constantFrom(6, 12, 24, 168),
    failureRate: fc.constantFrom(0, 0.05, 0.3, 0.9),
    gap: fc.record({ from: counts(3_600), days: counts(200) }),
    seed: fc.integer(),
  })
  .map(({ everyHours, failureRate, gap, seed }) => {
    const random = randomOf(seed);
    const start = at('2016-02-29T03:17:00Z');
    return Array.from({ length: Math.floor((3_653 * 24) / everyHours) }, (_, index): BackupRun => {
      const startedAt = start + index * everyHours * 3_600_000 + Math.floor(random() * 1_800_000);
      const failed = random() < failureRate;
      const hold = random() < 0.002 ? 'audit' : null;
      return {
        id: String(index),
        startedAt,
        state: failed ? 'failed' : 'verified',
        hold: failed ? null : hold,
      };
    }).filter(({ startedAt }) => {
      const day = (startedAt - start) / DAY_MS;
      return day < gap.from || day > gap.from + gap.days;
    });
  });

/** Mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** What holds after every single step of retention, whatever came before. */
function check(before: BackupRun[], policy: RetentionPolicy): BackupRun[] {
  const decisions = decideRetention(before, policy);
  const verified = before.filter(({ state }) => state === 'verified');
  assert.deepEqual(
    decisions.map(({ id }) => id).toSorted(),
    verified.map(({ id }) => id).toSorted(),
    'each once, and no other',
  );
  assert.ok(decisions.every(({ reasons }) => reasons.length > 0));
  const gone = new Set(decisions.filter(({ keep }) => !keep).map(({ id }) => id));
  const newest = verified.reduce<BackupRun | undefined>(
    (best, one) => (best && best.startedAt > one.startedAt ? best : one),
    undefined,
  );
  if (newest) assert.ok(!gone.has(newest.id), 'never the last good one');
  assert.ok(
    verified.every(({ id, hold }) => hold === null || !gone.has(id)),
    'never one on hold',
  );
  const left = verified.length - gone.size;
  assert.ok(
    left >= Math.min(verified.length, policy.minimum ?? DEFAULT_MINIMUM),
    'never fewer than the minimum',
  );
  const last = before.reduce((best, one) => (best.startedAt > one.startedAt ? best : one));
  if (last.state !== 'verified' || policyFaults(policy).length > 0)
    assert.equal(gone.size, 0, 'nothing after a failure');
  return before.filter(({ id }) => !gone.has(id));
}

suite('over ten years of schedules with failures', () => {
  test('retention after every run: the safeguards hold, and what is left is bounded', () => {
    fc.assert(
      fc.property(schedules, policies, (all, policy) => {
        let present: BackupRun[] = [];
        for (const one of all) {
          present.push(one);
          // The catalogue forgets failures that are older than the newest good one; retention does not need them.
          present = check(present, policy).filter(
            ({ state }) => state === 'verified' || one.state !== 'verified',
          );
        }
        const {
          last = 0,
          daily = 0,
          weekly = 0,
          monthly = 0,
          yearly = 0,
          withinDays = 0,
          minimum = DEFAULT_MINIMUM,
        } = policy;
        if (policyFaults(policy).length > 0 || all.at(-1)?.state !== 'verified') return;
        const held = present.filter(({ hold }) => hold !== null).length;
        const most = last + daily + weekly + monthly + yearly + withinDays * 4 + 4 + minimum + held + 2;
        assert.ok(present.length <= most, `${present.length} of at most ${most}`);
      }),
      { numRuns: 12 },
    );
  });

  test('a day, a month and a year ago can be restored, give or take the schedule', () => {
    const policy = { daily: 7, weekly: 4, monthly: 12, yearly: 10 };
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const random = randomOf(seed);
        let present: BackupRun[] = [];
        const start = at('2016-01-01T03:00:00Z');
        for (let day = 0; day < 3_653; day += 1) {
          const state = random() < 0.1 ? 'failed' : 'verified';
          present.push({ id: String(day), startedAt: start + day * DAY_MS, state, hold: null });
          present = check(present, policy).filter(
            ({ state: its }) => its === 'verified' || state !== 'verified',
          );
        }
        const ages = present
          .filter(({ state }) => state === 'verified')
          .map(({ startedAt }) => (start + 3_652 * DAY_MS - startedAt) / DAY_MS);
        for (const [ago, tolerance] of [
          [1, 5],
          [6, 4],
          [30, 31],
          [300, 40],
          [365 * 3, 366],
          [365 * 9, 370],
        ] as const)
          assert.ok(
            ages.some((age) => Math.abs(age - ago) <= tolerance),
            `${ago} days ago: ${ages.map(Math.floor)}`,
          );
      }),
      { numRuns: 10 },
    );
  });

  test('the order in which runs are listed does not matter, nor do failures before the newest success', () => {
    const few = fc.array(fc.record({ day: counts(800), hour: counts(23), failed: fc.boolean() }), {
      minLength: 1,
      maxLength: 40,
    });
    fc.assert(
      fc.property(few, policies, fc.integer(), (shapes, policy, seed) => {
        const all = shapes.map(
          ({ day, hour, failed }, index): BackupRun => ({
            id: String(index),
            startedAt: day * DAY_MS + hour * 3_600_000,
            state: failed ? 'failed' : 'verified',
            hold: null,
          }),
        );
        const random = randomOf(seed);
        const shuffled = all
          .map((one) => [random(), one] as const)
          .toSorted(([a], [b]) => a - b)
          .map(([, one]) => one);
        const decided = decideRetention(all, policy);
        assert.deepEqual(decideRetention(shuffled, policy), decided);
        const newestIsGood = all.every(
          ({ state, startedAt }) =>
            state === 'verified' ||
            all.some((other) => other.state === 'verified' && other.startedAt > startedAt),
        );
        if (newestIsGood)
          assert.deepEqual(
            decideRetention(
              all.filter(({ state }) => state === 'verified'),
              policy,
            ),
            decided,
          );
        check(
          all.filter((one, index) => all.findIndex(({ startedAt }) => startedAt === one.startedAt) === index),
          policy,
        );
      }),
    );
  });

  test('what one step of retention leaves, a second one leaves too', () => {
    const few = fc.uniqueArray(counts(4_000), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(few, policies, (hours, policy) => {
        const all = hours.map((hour) => run(String(hour), new Date(hour * 3_600_000 * 6).toISOString()));
        const once = check(all, policy);
        assert.deepEqual(check(once, policy), once);
      }),
    );
  });
});
