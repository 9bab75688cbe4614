// What a cycle makes of probes that are no evidence: our own network, components that are starting.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import type { ProbeResult, ProbeResults } from '../../src/domain/health.ts';
import { COMPONENT_NAMES, type ComponentName } from '../../src/domain/healthComponents.ts';
import { Cycles, DOWN, events, everything, HUNG, PLAN, UP, world } from '../support/healthCycles.ts';
import { healthPlan, type Incident } from '../support/healthWorld.ts';

suite('our own network', () => {
  test('that fails is no mass outage', () => {
    const cycles = new Cycles();
    for (let index = 0; index < 10; index += 1) assert.deepEqual(cycles.add(everything(HUNG)), []);
    for (const name of COMPONENT_NAMES) {
      assert.equal(cycles.components[name].standing.level, 0);
      assert.equal(cycles.components[name].last?.outcome, 'unknown');
    }
  });

  test('may fail between cycles, at any time and during outages: what is up is never told', () => {
    const phases = fc.array(fc.tuple(fc.integer({ min: 3, max: 35 }), fc.integer({ min: 1, max: 6 })), {
      minLength: 1,
      maxLength: 3,
    });
    const outages = fc.uniqueArray(
      fc.tuple(fc.constantFrom<ComponentName>('kafka', 'redis', 'llm'), fc.integer({ min: 60, max: 600 })),
      { maxLength: 2, selector: ([name]) => name },
    );
    fc.assert(
      fc.property(phases, outages, fc.nat(), (spans, broken, seed) => {
        const network = spans.map(([from, cycles]) => ({
          from: from * 30 - 1,
          to: (from + cycles) * 30 - 1,
        }));
        const incidents = broken.map(
          ([component, from]): Incident => ({
            component,
            kind: 'broken',
            from,
            to: from + 300,
          }),
        );
        const steps = world(incidents, { network, seed });
        for (const event of events(steps))
          assert.ok(
            broken.some(([name]) => event.startsWith(`${name} `)),
            event,
          );
      }),
      { numRuns: 100 },
    );
  });

  test('is not blamed for what hangs because of one, for few, or where something answers', () => {
    const few = { database: 'probed', upload_service: 'probed', backup_service: 'probed' } as const;
    const unmonitored = COMPONENT_NAMES.map((name) => [name, 'unmonitored'] as const);
    const cycles = new Cycles(healthPlan({}, { ...Object.fromEntries(unmonitored), ...few }));
    const hung = { database: HUNG, upload_service: HUNG, backup_service: HUNG };
    assert.deepEqual(
      [hung, hung, hung].flatMap((results) => cycles.add(results)),
      ['database failure'],
    );
    const all = new Cycles();
    const told = [1, 2, 3].flatMap(() => all.add(everything(HUNG, { redis: UP })));
    assert.ok(told.includes('kafka failure') && !told.includes('redis failure'));
  });

  test('is blamed although a tier on this host is up, and where several names are not found', () => {
    const local: ProbeResult = { ...UP, atLeast: 'moderate', members: { s3: HUNG, filesystem: UP } };
    const lost: ProbeResult = { ...DOWN, unrouted: true };
    const cycles = new Cycles();
    for (let index = 0; index < 5; index += 1) {
      assert.deepEqual(cycles.add(everything(HUNG, { storage: local })), []);
      assert.deepEqual(cycles.add(everything(UP, { kafka: lost, redis: lost, llm: lost })), []);
    }
    const told = [1, 2, 3].flatMap(() => cycles.add(everything(UP, { kafka: lost })));
    assert.deepEqual(told, ['kafka failure']);
    const two = { database: lost, backup_service: lost, redis: lost };
    const once = new Cycles();
    assert.deepEqual(
      [1, 2, 3].flatMap(() => once.add(everything(UP, two))),
      ['database failure', 'redis failure'],
      'two addresses, of which one is asked for backups too',
    );
  });

  test('is not blamed for what hangs in a soft cycle, which asks nothing else', () => {
    const cycles = new Cycles();
    const hung = { database: HUNG, kafka: HUNG, redis: HUNG };
    assert.deepEqual(cycles.add(everything(UP, hung)), []);
    const soft = [1, 2].flatMap(() => cycles.add(hung, { full: false, seconds: 5 }));
    assert.deepEqual(soft, ['database failure', 'kafka failure', 'redis failure']);
  });

  test('is not blamed when one more hangs beside those that have failed', () => {
    const unmonitored = COMPONENT_NAMES.map((name) => [name, 'unmonitored'] as const);
    const few = { kafka: 'probed', redis: 'probed', llm: 'probed' } as const;
    const cycles = new Cycles(healthPlan({}, { ...Object.fromEntries(unmonitored), ...few }));
    for (let index = 0; index < 3; index += 1) cycles.add({ kafka: HUNG, redis: HUNG, llm: UP });
    const hung = { kafka: HUNG, redis: HUNG, llm: HUNG };
    assert.deepEqual(
      [hung, hung, hung].flatMap((results) => cycles.add(results)),
      ['llm failure'],
    );
  });
});

suite('a component that starts', () => {
  test('has its time, is judged when that is over, and is judged at once when it was up before', () => {
    const cycles = new Cycles(PLAN, false);
    const told = [0, 30, 60, 90].flatMap(() => cycles.add(everything(UP, { llm: DOWN })));
    assert.deepEqual(told, []);
    assert.deepEqual(cycles.add(everything(UP, { llm: DOWN })), ['llm failure']);
  });

  test('explains meanwhile why its dependents fail', () => {
    const cycles = new Cycles(PLAN, false);
    const one = { redis: DOWN, gateway: UP };
    const both = { redis: DOWN, gateway: DOWN };
    const add = (results: ProbeResults, seconds: number) => cycles.add(everything(UP, results), { seconds });
    assert.deepEqual(
      [one, one, both, both, both, both].flatMap((results) => add(results, 5)),
      [],
    );
    assert.deepEqual(
      [both, both, both, both, both].flatMap((results) => add(results, 30)),
      ['redis failure'],
    );
  });
});
