import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import {
  type HealthRules,
  Level,
  type LevelName,
  levelName,
  type ProbeResult,
} from '../../src/domain/health.ts';
import { type Evidence, errorRate, isUnsettled, NO_EVIDENCE, weigh } from '../../src/domain/healthLevels.ts';
import { healthPlan, RULES } from '../support/healthWorld.ts';

const PLAN = healthPlan().components.kafka;
const UP: ProbeResult = { outcome: 'up', seconds: 0.1 };
const DOWN: ProbeResult = { outcome: 'down', seconds: 5 };
const inSeconds = (seconds: number): ProbeResult => ({ outcome: 'up', seconds });

const weighAll = (results: ProbeResult[], rules: HealthRules = RULES): Evidence[] => {
  const all = [NO_EVIDENCE];
  for (const result of results) all.push(weigh(all.at(-1)!, result, PLAN, rules));
  return all;
};
const levelsOf = (results: ProbeResult[], rules?: HealthRules): LevelName[] =>
  weighAll(results, rules).map(({ level }) => levelName(level));
const times = <T>(count: number, result: T): T[] => Array.from({ length: count }, () => result);

suite('a level', () => {
  const table: [what: string, result: ProbeResult, level: LevelName][] = [
    ['5 s are not too slow', inSeconds(5), 'none'],
    ['6 s are minor', inSeconds(6), 'minor'],
    ['10 s are minor', inSeconds(10), 'minor'],
    ['12 s are moderate', inSeconds(12), 'moderate'],
    ['20 s are severe', inSeconds(20), 'severe'],
    ['no answer is severe', DOWN, 'severe'],
    ['a part of a redundancy group gone is minor', { ...UP, atLeast: 'minor' }, 'minor'],
    ['what says itself that it is degraded is moderate', { ...UP, atLeast: 'moderate' }, 'moderate'],
    ['slowness counts besides that', { ...inSeconds(16), atLeast: 'minor' }, 'severe'],
  ];
  for (const [what, result, level] of table)
    test(what, () => assert.equal(levelsOf(times(RULES.down, result)).at(-1), level));

  test('rises with the third bad probe, and falls with the second good one', () => {
    assert.deepEqual(levelsOf([UP, DOWN, DOWN, DOWN, UP, UP]).slice(1), [
      'none',
      'none',
      'none',
      'severe',
      'severe',
      'none',
    ]);
  });

  test('rises to the least bad and falls to the worst of what was shown', () => {
    assert.deepEqual(levelsOf([DOWN, inSeconds(6), DOWN]).at(-1), 'minor');
    assert.deepEqual(levelsOf([DOWN, DOWN, DOWN, inSeconds(12), UP]).at(-1), 'moderate');
  });

  test('one probe alone never changes it', () => {
    fc.assert(
      fc.property(fc.array(probe, { maxLength: 8 }), counts, probe, probe, (past, its, one, next) => {
        const rules = { ...RULES, ...its, errorWindow: 1_000 };
        const before = weighAll([...past, ...times(5, one)], rules).at(-1)!;
        const after = weigh(before, next, PLAN, rules).level;
        assert.equal(after, before.level);
      }),
    );
  });

  test('changes with as many bad or good probes as the rules say', () => {
    fc.assert(
      fc.property(fc.array(probe, { maxLength: 8 }), counts, (past, its) => {
        const rules = { ...RULES, ...its };
        assert.equal(levelsOf([...past, ...times(its.down, DOWN)], rules).at(-1), 'severe');
        const good = [...times(its.down, DOWN), ...times(its.up, UP)];
        assert.equal(levelsOf([...past, ...good], rules).at(-1), 'none');
      }),
    );
  });
});

const probe = fc.oneof(
  fc.constant(DOWN),
  fc.constantFrom(0.1, 6, 12, 20).map(inSeconds),
  fc.constantFrom('minor' as const, 'moderate' as const).map((atLeast) => ({ ...UP, atLeast })),
);
const counts = fc.record({ down: fc.integer({ min: 2, max: 5 }), up: fc.integer({ min: 2, max: 5 }) });

suite('worse evidence never gives a better level', () => {
  const rank = ({ outcome, seconds, atLeast }: ProbeResult): number =>
    outcome === 'down'
      ? Level.critical
      : Math.max(PLAN.slowSeconds.filter((limit) => seconds > limit).length, Level[atLeast ?? 'none']);
  const pairs = fc.array(
    fc.tuple(probe, probe).map(([one, other]) => (rank(one) <= rank(other) ? [one, other] : [other, one])),
    { maxLength: 60 },
  );
  const anyCounts = fc.record({ down: fc.integer({ min: 1, max: 5 }), up: fc.integer({ min: 1, max: 5 }) });

  test('by slowness and outages, at any moment', () => {
    fc.assert(
      fc.property(pairs, anyCounts, (its, ruled) => {
        // Never as many probes as an error rate needs.
        const rules = { ...RULES, ...ruled, errorWindow: 1_000 };
        const better = weighAll(
          its.map(([one]) => one!),
          rules,
        );
        const worse = weighAll(
          its.map(([, other]) => other!),
          rules,
        );
        better.forEach(({ level }, index) => {
          assert.ok(level <= worse[index]!.level, `probe ${index}`);
        });
      }),
      { numRuns: 2_000 },
    );
  });

  test('by error rates as well, until the worse one has been through an outage: its failures are told by that', () => {
    fc.assert(
      fc.property(pairs, anyCounts, fc.integer({ min: 1, max: 10 }), (its, ruled, errorWindow) => {
        const rules = { ...RULES, ...ruled, errorWindow };
        const better = weighAll(
          its.map(([one]) => one!),
          rules,
        );
        const worse = weighAll(
          its.map(([, other]) => other!),
          rules,
        );
        const begin = worse.findIndex(({ level }) => level === Level.severe);
        const length = begin === -1 ? -1 : worse.slice(begin).findIndex(({ level }) => level < Level.severe);
        const end = length === -1 ? worse.length : begin + length;
        better.slice(0, end).forEach(({ level }, index) => {
          assert.ok(level <= worse[index]!.level, `probe ${index}`);
        });
      }),
      { numRuns: 2_000 },
    );
  });
});

suite('an error rate', () => {
  const among20 = (failed: number): ProbeResult[] =>
    times(21, UP).map((result, index) => (index % 3 === 1 && index < 3 * failed ? DOWN : result));
  const table: [failed: number, level: LevelName][] = [
    [2, 'none'],
    [3, 'minor'],
    [4, 'minor'],
    [5, 'moderate'],
  ];
  for (const [failed, level] of table)
    test(`of ${failed} in 20 is ${level}`, () => {
      const rules = { ...RULES, down: 2, up: 2 };
      assert.equal(levelsOf(among20(failed), rules).at(-1), level);
    });

  test('is none before its window is full, and forgets what is older than that', () => {
    const rules = { ...RULES, errorWindow: 12 };
    const failing = [DOWN, UP, DOWN, UP, DOWN];
    assert.equal(levelsOf([...failing, ...times(6, UP)], rules).at(-1), 'none');
    assert.equal(levelsOf([...failing, ...times(9, UP)], rules).at(-1), 'minor');
    assert.equal(levelsOf([...failing, ...times(12, UP)], rules).at(-1), 'none');
  });

  test('has none of the failures of an outage that was confirmed', () => {
    const rules = { ...RULES, errorWindow: 2 };
    const after = weighAll([...times(15, UP), ...times(8, DOWN), UP, UP, UP], rules).at(-1)!;
    assert.equal(levelName(after.level), 'none');
    assert.equal(errorRate(after.failures), 0);
  });
});

test('what is about to change is unsettled', () => {
  const of = (...results: ProbeResult[]) => isUnsettled(weighAll(results).at(-1)!);
  assert.equal(of(), false);
  assert.equal(of(UP), false);
  assert.equal(of(DOWN), true);
  assert.equal(of(DOWN, DOWN), true);
  assert.equal(of(DOWN, DOWN, DOWN), false);
  assert.equal(of(DOWN, DOWN, DOWN, UP), true);
});

test('rules that look further back than the probes that are kept change nothing by themselves', () => {
  const short = { ...RULES, down: 1, up: 1 };
  const failed = weighAll([DOWN], short).at(-1)!;
  const long = { ...RULES, down: 3, up: 3 };
  const levels = [failed];
  for (const result of times(3, UP)) levels.push(weigh(levels.at(-1)!, result, PLAN, long));
  assert.deepEqual(
    levels.map(({ level }) => levelName(level)),
    ['severe', 'severe', 'severe', 'none'],
  );
  const none = { level: Level.severe, shown: [], failures: [] };
  assert.equal(weigh(none, UP, PLAN, long).level, Level.severe);
});
