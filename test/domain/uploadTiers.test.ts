import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import type { ProbeResult } from '../../src/domain/health.ts';
import { advance } from '../../src/domain/healthCycle.ts';
import { completed, nothingKnown } from '../../src/domain/healthMemory.ts';
import { unknownComponents } from '../../src/domain/healthState.ts';
import { TIER_NAMES, type TierName } from '../../src/domain/uploads.ts';
import {
  judgeTier,
  judgeTiers,
  type TierStanding,
  type TierStandings,
  worthTrying,
} from '../../src/domain/uploadTiers.ts';
import { everything, PLAN, UP } from '../support/healthCycles.ts';

type Canary = 'up' | 'down' | 'unknown';

/** The storage's probe with these canaries; its own outcome is of no account unless it failed by itself. */
const probe = (canaries: Partial<Record<string, Canary>>, outcome: Canary = 'up'): ProbeResult => ({
  outcome,
  seconds: 0.1,
  members: Object.fromEntries(
    Object.entries(canaries).map(([name, its]) => [name, { outcome: its!, seconds: 0.1 }]),
  ),
});

const cycle = { now: 1_000_000, full: true, intervalSeconds: 30 };

/** After each canary: `x` while the tier is out. */
function standings(canaries: string): string {
  let standing: TierStanding = { out: false, against: 0 };
  const failed = { '+': false, '-': true, '?': undefined };
  return [...canaries]
    .map((sign) => {
      standing = judgeTier(standing, failed[sign as keyof typeof failed]);
      return standing.out ? 'x' : '.';
    })
    .join('');
}

suite('a tier', () => {
  for (const [canaries, out] of [
    ['+++++', '.....'],
    ['-+-+-', '.....'],
    ['--', '.x'],
    ['---+--', '.xxxxx'],
    ['--+-++', '.xxxx.'],
    ['--++-+--', '.xx....x'],
    ['-?-', '..x'],
    ['--?+??+', '.xxxxx.'],
    ['????', '....'],
  ] as const)
    test(`${canaries} is out at ${out}`, () => assert.equal(standings(canaries), out));

  test('changes only after two canaries in a row that say otherwise', () => {
    const signs = fc.array(fc.constantFrom('+', '-'), { maxLength: 60 });
    fc.assert(
      fc.property(signs, (canaries) => {
        const out = `.${standings(canaries.join(''))}`;
        for (let at = 1; at < out.length; at += 1) {
          const last = canaries.slice(Math.max(0, at - 2), at).join('');
          if (out[at] !== out[at - 1]) assert.equal(last, out[at] === 'x' ? '--' : '++');
          if (last === '--') assert.equal(out[at], 'x');
          if (last === '++') assert.equal(out[at], '.');
        }
      }),
    );
  });
});

suite('the probe of the storage', () => {
  const after = (...probes: ProbeResult[]): { tiers: TierStandings; gates: unknown[][] } => {
    let tiers: TierStandings = {};
    const gates = probes.map((result) => {
      const judged = judgeTiers(tiers, result, cycle);
      tiers = judged.tiers;
      return judged.gates.map(({ component, openUntil }) => [component, openUntil]);
    });
    return { tiers, gates };
  };
  const out = ['storage/s3', new Date(cycle.now + 120_000).toISOString()];
  const away = probe({ s3: 'down', filesystem: 'up', redis: 'up' });
  const well = probe({ s3: 'up', filesystem: 'up', redis: 'up' });

  test('opens a gate for four cycles, renews it by each canary, and closes it', () => {
    assert.deepEqual(after(away, away, away, well, away, well, well, well).gates, [
      [],
      [out],
      [out],
      [out],
      [out],
      [out],
      [['storage/s3', null]],
      [],
    ]);
  });

  test('says nothing where it could not see', () => {
    const blind = { ...away, outcome: 'unknown' as const };
    assert.deepEqual(after(away, blind, blind).gates, [[], [], []]);
    const blindMember = probe({ s3: 'unknown', filesystem: 'up' });
    assert.deepEqual(
      after(away, away, blindMember).gates,
      [[], [out], []],
      'without a canary no gate is renewed',
    );
  });

  test('between two cycles changes a gate, and renews none', () => {
    const soft = { ...cycle, full: false };
    const { tiers, gates } = judgeTiers(after(away).tiers, away, soft);
    assert.equal(gates.length, 1);
    assert.deepEqual(judgeTiers(tiers, away, soft), { tiers, gates: [] });
  });

  test('forgets tiers that are not configured any more, and does not know others', () => {
    const { tiers } = after(away, away, probe({ filesystem: 'up', tape: 'down' }));
    assert.deepEqual(Object.keys(tiers), ['filesystem']);
  });
});

suite('the health cycle', () => {
  test('remembers the tiers and leaves their gates to be written, also after a version that knew none', () => {
    const old = completed({ ...nothingKnown(0), components: unknownComponents(0) }, 0);
    assert.equal(old.components.storage.tiers, undefined);
    const results = everything(UP, { storage: probe({ s3: 'down', filesystem: 'up' }) });
    const moment = (now: number) => ({ now, full: true, random: () => 0 });
    const first = advance(PLAN, old.components, results, moment(30_000));
    assert.deepEqual(first.components.storage.tiers?.s3, { out: false, against: 1 });
    const second = advance(PLAN, first.components, results, moment(60_000));
    assert.deepEqual(second.components.storage.tiers?.s3, { out: true, against: 0 });
    assert.deepEqual(second.record.gates, [
      { component: 'storage/s3', openUntil: new Date(180_000).toISOString() },
    ]);
    const { storage, ...others } = results;
    const third = advance(PLAN, second.components, others, moment(90_000));
    assert.deepEqual(third.components.storage.tiers, second.components.storage.tiers);
    assert.deepEqual(third.record.gates, [], 'what is not probed renews no gate');
  });
});

test('worth trying are the configured tiers in their order without those that are out, or all', () => {
  const tiers = fc.shuffledSubarray<TierName>([...TIER_NAMES]);
  fc.assert(
    fc.property(tiers, tiers, (configured, out) => {
      const left = configured.filter((tier) => !out.includes(tier));
      assert.deepEqual(worthTrying(configured, out), left.length > 0 ? left : configured);
    }),
  );
});
