import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { ProbeResults } from '../../src/domain/health.ts';
import { unsettled } from '../../src/domain/healthCycle.ts';
import {
  Cycles,
  DOWN,
  events,
  everything,
  messages,
  PLAN,
  UNKNOWN,
  UP,
  world,
} from '../support/healthCycles.ts';
import { healthPlan, type Incident } from '../support/healthWorld.ts';

suite('an outage', () => {
  test('of Kafka is told within a cycle and 15 s, with what it affects, and its end once', () => {
    const steps = world([{ component: 'kafka', kind: 'broken', from: 65, to: 305 }]);
    const [failure, recovery] = steps.flatMap(({ at, record }) =>
      record.notices.map((its) => ({ at, ...its })),
    );
    assert.deepEqual(events(steps), ['kafka failure severe', 'kafka recovery none']);
    assert.ok(failure!.at <= 65 + 30 + 15);
    assert.ok(recovery!.at <= 305 + 30 + 15);
    assert.deepEqual(failure!.payload.affected, ['gateway', 'conversation_worker', 'tool_executor']);
    assert.deepEqual([failure!.severity, recovery!.severity], ['critical', 'recovery']);
    assert.equal(
      failure!.payload.message,
      'kafka has failed (severe): refused; affected: gateway, conversation_worker, tool_executor',
    );
    assert.equal(recovery!.payload.message, 'kafka works again');
  });

  test('of two at once makes two notices, whoever depends on both', () => {
    const steps = world([
      { component: 'kafka', kind: 'broken', from: 65, to: 305 },
      { component: 'redis', kind: 'hung', from: 66, to: 400 },
    ]);
    assert.deepEqual(events(steps), [
      'kafka failure severe',
      'redis failure severe',
      'kafka recovery none',
      'redis recovery none',
    ]);
  });

  test('that dependents notice first is its root’s, not theirs', () => {
    const cycles = new Cycles();
    const dependents: ProbeResults = { gateway: DOWN, auth_service: DOWN };
    assert.deepEqual(cycles.add(everything(UP, dependents)), []);
    assert.deepEqual(cycles.add({ ...dependents, redis: DOWN }, { full: false }), []);
    assert.deepEqual(cycles.add({ ...dependents, redis: DOWN }, { full: false }), []);
    assert.deepEqual(cycles.add({ ...dependents, redis: DOWN }, { full: false }), ['redis failure']);
  });

  test('that outlasts its root by a minute is told after as many failures as any other', () => {
    const cycles = new Cycles();
    const both = { database: DOWN, gateway: DOWN };
    const told = [both, both, both, both].flatMap((results) => cycles.add(everything(UP, results)));
    assert.deepEqual(told, ['database failure']);
    const only = { gateway: DOWN };
    assert.deepEqual(
      [1, 2, 3, 4, 5].map(() => cycles.add(everything(UP, only))),
      [[], ['database recovery'], [], [], ['gateway failure']],
    );
  });

  test('does not count a dependent’s failures before it with those after it', () => {
    const cycles = new Cycles();
    const only = { gateway: DOWN };
    const both = { gateway: DOWN, redis: DOWN };
    const told = [only, both, both, both, both, only, only, only, {}].flatMap((results) =>
      cycles.add(everything(UP, results)),
    );
    assert.deepEqual(told, ['redis failure', 'redis recovery']);
  });

  test('is told although a dependency fails now and then', () => {
    const cycles = new Cycles();
    const told = [0, 1, 2, 3, 4, 5, 6].flatMap((index) =>
      cycles.add(everything(UP, { gateway: DOWN, ...(index % 2 === 0 && { redis: DOWN }) })),
    );
    assert.deepEqual(told, ['gateway failure']);
  });

  test('is told although the last that was seen of a dependency was bad, and nothing can be seen of it now', () => {
    const cycles = new Cycles();
    cycles.add(everything(UP, { gateway: DOWN, redis: DOWN }));
    const told = [1, 2, 3, 4].flatMap(() => cycles.add(everything(UP, { gateway: DOWN, redis: UNKNOWN })));
    assert.deepEqual(told, ['gateway failure']);
  });

  test('is neither begun nor ended by what is no evidence', () => {
    const cycles = new Cycles();
    for (let index = 0; index < 5; index += 1) cycles.add(everything(UP, { llm: DOWN }));
    const { evidence, breaker, standing } = cycles.components.llm;
    for (let index = 0; index < 30; index += 1)
      assert.deepEqual(cycles.add(everything(UNKNOWN, { redis: UP })), []);
    const { llm, kafka } = cycles.components;
    assert.deepEqual([llm.evidence, llm.breaker, llm.standing], [evidence, breaker, standing]);
    assert.equal(kafka.standing.level, 0);
  });

  test('grows to critical without another notice when its breaker opens, and the gate says until when', () => {
    const steps = world([{ component: 'kafka', kind: 'broken', from: 65, to: 305 }]);
    const levels = steps.flatMap(({ record }) =>
      record.transitions
        .filter(({ component }) => component === 'kafka')
        .map(({ event, to }) => `${event} ${to}`),
    );
    assert.deepEqual(levels, ['failure severe', 'failure critical', 'change severe', 'recovery none']);
    const gates = steps.flatMap(({ at, record }) => record.gates.map((gate) => ({ at, ...gate })));
    assert.ok(gates.length >= 2 && gates.every(({ component }) => component === 'kafka'));
    for (const { at, openUntil } of gates.slice(0, -1)) {
      const ahead = Date.parse(openUntil!) / 1000 - at;
      assert.ok(ahead > 0 && ahead <= 300);
    }
    assert.equal(gates.at(-1)!.openUntil, null);
  });

  test('that slows down first is told twice: as a warning, and once as an outage', () => {
    const steps = world([
      { component: 'storage', kind: 'slow', from: 65, to: 200 },
      { component: 'storage', kind: 'broken', from: 200, to: 305 },
      { component: 'storage', kind: 'slow', from: 305, to: 400 },
    ]);
    assert.deepEqual(events(steps), [
      'storage failure moderate',
      'storage failure severe',
      'storage recovery none',
    ]);
    assert.ok(messages(steps)[0]!.includes('is degraded (moderate): answers in 12.0 s'));
  });
});

suite('transitions', () => {
  test('of dependents name the root, and say what they were and are', () => {
    const incidents: Incident[] = [{ component: 'audio_tts', kind: 'broken', from: 65, to: 305 }];
    const derived = healthPlan({}, { voice_service: 'derived' });
    const seen = world(incidents, { plans: [{ from: 0, plan: derived }] })
      .flatMap(({ record }) => record.transitions)
      .map(({ component, event, from, to, suppressed_by }) => [component, event, from, to, ...suppressed_by]);
    assert.deepEqual(seen, [
      ['audio_tts', 'failure', 'none', 'severe'],
      ['voice_service', 'cascading', 'none', 'moderate', 'audio_tts'],
      ['multimodal', 'cascading', 'none', 'severe', 'audio_tts'],
      ['audio_tts', 'failure', 'severe', 'critical'],
      ['audio_tts', 'change', 'critical', 'severe'],
      ['audio_tts', 'recovery', 'severe', 'none'],
      ['voice_service', 'recovery', 'moderate', 'none'],
      ['multimodal', 'recovery', 'severe', 'none'],
    ]);
  });
});

suite('error rates', () => {
  test('are told as what they are', () => {
    const cycles = new Cycles();
    const told: string[] = [];
    for (let index = 0; index < 25; index += 1)
      told.push(...cycles.add(everything(UP, index % 6 === 0 ? { llm: DOWN } : {})));
    assert.deepEqual(told, ['llm failure']);
    const steps = world(
      [0, 1, 2, 3, 4, 5].map((index) => ({
        component: 'llm',
        kind: 'broken',
        from: 59 + 90 * index,
        to: 62 + 90 * index,
      })),
    );
    assert.match(
      messages(steps)[0]!,
      /^llm is degraded \((minor|moderate)\): \d of its last 20 probes failed/,
    );
  });

  const together = [{ redis: DOWN, gateway: DOWN }, {}, {}, {}];
  const sooner = [{ gateway: DOWN }, { redis: DOWN, gateway: DOWN }, {}, {}];
  const later = [{ redis: DOWN }, { gateway: DOWN }, {}, {}];
  for (const [when, results] of Object.entries({ together, sooner, later }))
    test(`of dependents have none of the failures of a dependency, noticed ${when}`, () => {
      const cycles = new Cycles();
      const told = Array.from({ length: 40 }, (_, index) => cycles.add(everything(UP, results[index % 4])));
      assert.deepEqual(told.flat(), ['redis failure']);
      assert.equal(cycles.components.gateway.evidence.level, 0);
    });
});

suite('unsettled is', () => {
  test('what is about to change, and what may explain it; nothing else', () => {
    const cycles = new Cycles();
    assert.deepEqual(unsettled(PLAN, cycles.components), []);
    cycles.add(everything(UP, { voice_service: DOWN }));
    assert.deepEqual(unsettled(PLAN, cycles.components), ['llm', 'audio_tts', 'audio_stt', 'voice_service']);
  });

  test('also what followed from an outage that may be over', () => {
    const cycles = new Cycles();
    const down = { storage: DOWN, upload_service: DOWN };
    for (let index = 0; index < 4; index += 1) cycles.add(everything(UP, down));
    assert.deepEqual(unsettled(PLAN, cycles.components), []);
    cycles.add(everything(UP, { ...down, storage: UP }));
    const names = unsettled(PLAN, cycles.components);
    assert.deepEqual(names, ['redis', 'storage', 'upload_service', 'multimodal', 'backup_service']);
  });
});
