import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { Level, type NoticeEvent } from '../../src/domain/health.ts';
import { NOTHING_TOLD, noticeDue, type Situation, type Told } from '../../src/domain/healthNotices.ts';
import { Cycles, DOWN, events, everything, messages, PLAN, UP, world } from '../support/healthCycles.ts';
import { healthPlan, type Incident } from '../support/healthWorld.ts';

suite('a notice', () => {
  const { none, minor, moderate, severe, critical } = Level;
  const NOW = 10_000_000;
  const situation = { level: none as Level, mending: false, flapping: false, maintenance: false };
  const told = (level: Level, secondsAgo = 1000, flapping = false) => ({
    level,
    at: NOW - secondsAgo * 1000,
    flapping,
  });
  const table: [what: string, Told, Partial<Situation>, NoticeEvent | undefined][] = [
    ['of an outage', NOTHING_TOLD, { level: severe }, 'failure'],
    ['of slowness', NOTHING_TOLD, { level: minor }, 'failure'],
    ['of an outage after slowness, at once', told(moderate, 1), { level: severe }, 'failure'],
    ['of an outage just after a recovery', told(none, 1), { level: critical }, 'failure'],
    ['of slowness just after a recovery: later', told(none, 299), { level: moderate }, undefined],
    ['of slowness that lasts', told(none, 300), { level: moderate }, 'failure'],
    ['of more of the same: none', told(minor), { level: moderate }, undefined],
    ['of a breaker that opens: none', told(severe), { level: critical }, undefined],
    ['of less of an outage: later', told(severe, 299), { level: minor }, undefined],
    ['of less of an outage, which lasts', told(severe, 300), { level: minor }, 'eased'],
    ['of its end', told(severe), { level: none }, 'recovery'],
    ['of its end, however soon', told(minor, 1), { level: none }, 'recovery'],
    ['of nothing: none', NOTHING_TOLD, {}, undefined],
    ['of an outage that may be ending: none yet', NOTHING_TOLD, { level: severe, mending: true }, undefined],
    ['of flapping', told(none, 1), { level: severe, flapping: true }, 'flapping_started'],
    ['while it flaps: none', told(severe, 1, true), { level: none, flapping: true }, undefined],
    ['of its end, well', told(severe, 1, true), { level: none }, 'flapping_ended'],
    ['of its end, failed', told(none, 1, true), { level: severe }, 'flapping_ended'],
    ['under maintenance: none', told(none), { level: severe, maintenance: true }, undefined],
    ['under maintenance of a recovery: none', told(severe), { maintenance: true }, undefined],
  ];
  for (const [what, was, is, event] of table)
    test(what, () => assert.equal(noticeDue(was, { ...situation, ...is }, NOW, PLAN.rules), event));
});

suite('under maintenance', () => {
  const window = { component: 'kafka' as const, from: 60, to: 400 };

  test('nothing is told of what is over when it ends', () => {
    const steps = world([{ component: 'kafka', kind: 'broken', from: 70, to: 300 }], {
      maintenance: [window],
    });
    assert.deepEqual(events(steps), []);
  });

  test('what differs is told when it ends', () => {
    const fails = world([{ component: 'kafka', kind: 'broken', from: 70, to: 600 }], {
      maintenance: [window],
    });
    assert.deepEqual(events(fails), ['kafka failure critical', 'kafka recovery none']);
    assert.ok(
      fails.findIndex(({ record }) => record.notices.length > 0) > fails.findIndex(({ at }) => at > 400) - 1,
    );
    const mends = world([{ component: 'kafka', kind: 'broken', from: 2, to: 300 }], {
      maintenance: [{ ...window, from: 150 }],
      plans: [{ from: 0, plan: healthPlan({ graceSeconds: 0 }) }],
    });
    assert.deepEqual(events(mends), ['kafka failure severe', 'kafka recovery none']);
  });

  test('an outage that is just ending when it is over is not told any more', () => {
    const cycles = new Cycles();
    for (let index = 0; index < 2; index += 1) cycles.add(everything(UP, { llm: DOWN }));
    cycles.components = {
      ...cycles.components,
      llm: { ...cycles.components.llm, maintenanceUntil: 31_000 * 4 },
    };
    assert.deepEqual(
      [DOWN, UP, UP, UP].flatMap((llm) => cycles.add(everything(UP, { llm }))),
      [],
    );
  });
});

suite('what flaps', () => {
  const incidents = Array.from(
    { length: 12 },
    (_, index): Incident => ({
      component: 'redis',
      kind: 'broken',
      from: 60 + 120 * index,
      to: 110 + 120 * index,
    }),
  );

  test('is told until it does, then no more until it is steady; nothing of what depends on it', () => {
    const steps = world(incidents, { seconds: 3000 });
    const told = events(steps);
    const begin = told.findIndex((event) => event.startsWith('redis flapping_started'));
    assert.ok(begin > 1);
    assert.deepEqual(told.slice(begin + 1), ['redis flapping_ended none']);
    assert.ok(told.every((event) => event.startsWith('redis ')));
    assert.equal(messages(steps).at(-1), 'redis is steady again and works');
  });
});

suite('a plan', () => {
  test('that does without a component ends its outage, and says why', () => {
    const without = healthPlan({}, { llm: 'unmonitored' });
    const steps = world([{ component: 'llm', kind: 'broken', from: 65, to: 900 }], {
      plans: [
        { from: 0, plan: PLAN },
        { from: 400, plan: without },
      ],
    });
    assert.equal(messages(steps)[1], 'llm is not checked any more');
    assert.equal(steps.at(-1)!.components.llm.breaker.state, 'closed');
    const gate = steps.flatMap(({ record }) => record.gates).at(-1);
    assert.deepEqual(gate, { component: 'llm', openUntil: null });
  });
});
