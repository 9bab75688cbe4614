import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type Exploration, explore } from './explore.ts';
import { mutantScenario, mutants, protocol, redundant } from './mutants.ts';
import type { TakeoverStep } from './relay.ts';
import type { Scenario } from './states.ts';

// What is modelled, and how, stands at the head of world.ts. A mutant's way into its fault, step by step:
// `node scripts/run.mjs test/model/explain.ts`.

function assertSound({ states, worlds, faults }: Exploration): void {
  for (const [fault, way] of faults) assert.fail(`${fault}, after:\n  ${way.join('\n  ')}`);
  assert.ok(worlds.size > 100 && states > worlds.size, 'it went through the protocol at all');
}

const twoRelaysAndAZombie: Scenario = { protocol, runs: 3, late: 1, rejections: 1, kills: false };
const withoutRejection: Scenario = { ...twoRelaysAndAZombie, rejections: 0 };

suite('in every interleaving each row is delivered once, in order, and nobody stops:', () => {
  const scenarios: [name: string, scenario: Scenario][] = [
    ['two relays and a zombie, a late row, a rejection', twoRelaysAndAZombie],
    ['two relays and two zombies', { ...twoRelaysAndAZombie, runs: 4, late: 0, rejections: 0 }],
    ['two relays, three rejections', { ...twoRelaysAndAZombie, runs: 2, late: 0, rejections: 3 }],
    ['batches of one row', { ...withoutRejection, protocol: { ...protocol, limit: 1 } }],
  ];
  for (const [name, scenario] of scenarios) {
    test(name, (t) => {
      const found = explore(scenario);
      assertSound(found);
      t.diagnostic(`${found.states} states, ${found.steps} steps`);
    });
  }

  test('a relay that is killed reaches no world that a frozen one does not', () => {
    const killed = explore({ ...withoutRejection, kills: true });
    assertSound(killed);
    assert.deepEqual([...killed.worlds].sort(), [...explore(withoutRejection).worlds].sort());
  });
});

suite('a fault is found with', () => {
  for (const { name, protocol, faults } of mutants) {
    test(`${name}: ${faults.join(', ')}`, () => {
      const found = explore(mutantScenario(protocol), faults).faults;
      assert.deepEqual([...found.keys()].sort(), [...faults].sort());
    });
  }
});

suite('no fault is found without', () => {
  for (const { name, protocol } of redundant) {
    test(name, () => assertSound(explore(mutantScenario(protocol))));
  }
});

suite('the order of the takeover', () => {
  type Part = Exclude<TakeoverStep, 'beginBarrier' | 'commitBarrier'> | 'barrier';
  const parts: Part[] = ['raiseEpoch', 'initialise', 'barrier', 'readMark', 'readJournal'];

  /** Both sides are fenced before either is read, and the barrier lies between fence and mark. */
  const isEnough = (order: Part[]): boolean => {
    const before = (first: Part, second: Part) => order.indexOf(first) < order.indexOf(second);
    const fencedFirst = (read: Part) => before('raiseEpoch', read) && before('initialise', read);
    return fencedFirst('readMark') && fencedFirst('readJournal') && before('barrier', 'readMark');
  };

  test('of all 60 that are possible, 8 are sound: fence both sides before either is read', () => {
    const possible = permutations(parts).filter(
      (order) => order.indexOf('initialise') < order.indexOf('barrier'),
    );
    const isSound = (order: Part[]): boolean => {
      const takeover = order.flatMap<TakeoverStep>((part) =>
        part === 'barrier' ? ['beginBarrier', 'commitBarrier'] : [part],
      );
      const scenario = { ...mutantScenario({ ...protocol, takeover }), late: 0, rejections: 1 };
      return explore(scenario, 'any').faults.size === 0;
    };
    assert.equal(possible.length, 60);
    assert.deepEqual(possible.filter(isSound), possible.filter(isEnough));
    assert.equal(possible.filter(isEnough).length, 8);
  });
});

function permutations<T>(items: T[]): T[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((first) =>
    permutations(items.filter((item) => item !== first)).map((rest) => [first, ...rest]),
  );
}
