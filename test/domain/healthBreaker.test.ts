import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { type BreakerState, CLOSED, tripped } from '../../src/domain/healthBreaker.ts';
import type { BreakerPlan } from '../../src/domain/healthComponents.ts';
import { DEFAULT_BREAKER } from '../../src/domain/healthComponents.ts';

interface Probe {
  failed: boolean;
  /** Since the last one. */
  seconds: number;
  random: number;
}

const probes = fc.array(
  fc.record({
    failed: fc.boolean(),
    seconds: fc.oneof(fc.constant(30), fc.integer({ min: 1, max: 400 })),
    random: fc.double({ min: 0, max: 1, noNaN: true }),
  }),
  { maxLength: 80 },
);
/** Outages and the times between them. */
const rows = fc
  .array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 12 }), probes), { maxLength: 10 })
  .map((all) =>
    all.flatMap(([failed, length, its]) => its.slice(0, length).map((one) => ({ ...one, failed }))),
  );
const plans: fc.Arbitrary<BreakerPlan> = fc
  .record({
    failures: fc.integer({ min: 1, max: 6 }),
    openSeconds: fc.integer({ min: 1, max: 100 }),
    more: fc.integer({ min: 0, max: 400 }),
    trials: fc.integer({ min: 1, max: 4 }),
  })
  .map(({ more, ...plan }) => ({ ...plan, maxOpenSeconds: plan.openSeconds + more }));

interface Seen extends Probe {
  now: number;
  before: BreakerState;
  after: BreakerState;
}

function run(plan: BreakerPlan, its: Probe[]): Seen[] {
  let now = 1_000_000;
  let state: BreakerState = CLOSED;
  return its.map((probe) => {
    now += probe.seconds * 1000;
    const before = state;
    state = tripped(before, probe.failed, { plan, now, random: probe.random });
    return { ...probe, now, before, after: state };
  });
}

const always = (check: (plan: BreakerPlan, seen: Seen[]) => void) =>
  fc.assert(
    fc.property(plans, fc.oneof(probes, rows), (plan, its) => check(plan, run(plan, its))),
    { numRuns: 1_000 },
  );

suite('a breaker', () => {
  test('opens from closed with exactly the failures in a row that the plan says', () => {
    always((plan, seen) => {
      let row = 0;
      for (const { failed, before, after } of seen) {
        if (before.state !== 'closed') row = 0;
        row = failed ? row + 1 : 0;
        if (before.state !== 'closed') continue;
        assert.equal(after.state, row === plan.failures ? 'open' : 'closed');
        row = after.state === 'closed' ? row : 0;
      }
    });
  });

  test('closes only after the successes in a row that the plan says, whatever was before', () => {
    always((plan, seen) => {
      seen.forEach(({ before, after }, index) => {
        if (before.state === 'closed' || after.state !== 'closed') return;
        const last = seen.slice(0, index + 1).slice(-plan.trials);
        assert.ok(last.length === plan.trials && last.every(({ failed }) => !failed));
      });
    });
  });

  test('is never stuck: as many successes close it from any state, and one failure ends a trial', () => {
    always((plan, seen) => {
      for (const { now, after } of seen) {
        let state = after;
        for (let trial = 0; trial < plan.trials; trial += 1)
          state = tripped(state, false, { plan, now, random: 0 });
        assert.deepEqual(state, CLOSED);
        if (after.state === 'half_open')
          assert.equal(tripped(after, true, { plan, now, random: 0 }).state, 'open');
      }
    });
  });

  test('stays open twice as long each time, never longer than the most, and shortened by a fifth at most', () => {
    always((plan, seen) => {
      for (const { now, random, before, after } of seen) {
        if (after.state !== 'open') continue;
        assert.ok(after.until - now <= plan.maxOpenSeconds * 1000);
        if (after === before) continue;
        const times = 'times' in before ? before.times + 1 : 1;
        assert.equal(after.times, times);
        const full = Math.min(plan.maxOpenSeconds, plan.openSeconds * 2 ** (times - 1)) * 1000;
        assert.ok(Math.abs(after.until - now - full * (1 - 0.2 * random)) <= 0.5);
        assert.ok(after.until - now >= 0.8 * full - 0.5);
      }
    });
  });

  test('moves its time only when that is over', () => {
    always((_, seen) => {
      for (const { now, failed, before, after } of seen)
        if (before.state === 'open' && failed && now < before.until) assert.equal(after, before);
    });
  });

  test("of the platform's opens with the fifth failure for 60 s, then 120, 240, 300 and 300", () => {
    const failing = { failed: true, random: 0 };
    const seen = run(DEFAULT_BREAKER, [
      ...Array.from({ length: 5 }, () => ({ ...failing, seconds: 30 })),
      ...[60, 120, 240, 300].map((seconds) => ({ ...failing, seconds })),
    ]);
    assert.deepEqual(
      seen.map(({ now, after }) => (after.state === 'open' ? (after.until - now) / 1000 : 0)),
      [0, 0, 0, 0, 60, 120, 240, 300, 300],
    );
  });
});
