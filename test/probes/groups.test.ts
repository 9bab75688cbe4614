import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ProbeResult } from '../../src/domain/health.ts';
import { judgeGroup } from '../../src/probes/group.ts';

const up = (seconds = 0.1): ProbeResult => ({ outcome: 'up', seconds });
const down = (error = 'refused'): ProbeResult => ({ outcome: 'down', seconds: 2, error });
const late: ProbeResult = { outcome: 'down', seconds: 5, timedOut: true, error: 'no answer within 5 s' };
const unknown: ProbeResult = { outcome: 'unknown', seconds: 1, error: 'EMFILE' };
const names = ['s3', 'filesystem', 'redis', 'tape'];

function judge(...results: ProbeResult[]) {
  const { members, ...group } = judgeGroup(results.map((result, index) => [names[index]!, result]));
  return group;
}

test('A redundancy group is up while any member is, and says what it has lost', async (t) => {
  const cases: [string, ProbeResult[], ProbeResult['atLeast']][] = [
    ['all are up', [up(), up(), up()], undefined],
    ['a later one is down', [up(), down(), up()], 'minor'],
    ['the second of two is down', [up(), down()], 'minor'],
    ['the first is down', [down(), up(), up()], 'moderate'],
    ['one of three is left', [up(), down(), down()], 'moderate'],
    ['two of four are left', [up(), down(), down(), up()], 'minor'],
    ['one is unknown', [up(), unknown], undefined],
    ['the serving one says that it is degraded', [{ ...up(), atLeast: 'minor' }, up()], 'minor'],
    ['one that does not serve says so', [up(), { ...up(), atLeast: 'minor' }], undefined],
    ['it is degraded and the first is down', [down(), { ...up(), atLeast: 'minor' }], 'moderate'],
  ];
  for (const [name, results, atLeast] of cases) {
    await t.test(`${name}: ${atLeast ?? 'well'}`, () => {
      const group = judge(...results);
      assert.equal(group.outcome, 'up');
      assert.equal(group.atLeast, atLeast);
    });
  }
});

test('Its time is that of the first member that is up', () => {
  assert.equal(judge(down(), up(0.3), up(0.2)).seconds, 0.3);
});

test('It is down when all are, and names each', () => {
  assert.deepEqual(judge(down('no route'), late), {
    outcome: 'down',
    seconds: 5,
    error: 's3: no route; filesystem: no answer within 5 s',
  });
  assert.equal(judge(late, late).timedOut, true);
});

test('What is not known of all is not known', () => {
  assert.equal(judge(unknown, unknown).outcome, 'unknown');
  assert.equal(judge(down(), unknown).outcome, 'unknown');
});

test('The members are there as well, the error stays short', () => {
  const { members, error } = judgeGroup(names.map((name) => [name, down('x'.repeat(300))]));
  assert.deepEqual(Object.keys(members!), names);
  assert.ok(error!.length <= 300);
  for (const name of names) assert.match(error!, new RegExp(`${name}: x`));
});
