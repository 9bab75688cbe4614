import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { HEALTH_WORKFLOW_ID } from '../../src/domain/health.ts';
import {
  checkedMaintenance,
  completed,
  healthInputFaults,
  nothingKnown,
} from '../../src/domain/healthMemory.ts';
import { describeHealth, statusOf } from '../../src/domain/healthStatus.ts';
import { Cycles, DOWN, everything, PLAN, UP } from '../support/healthCycles.ts';

test('the memory of a version that knew fewer components is taken over', () => {
  const cycles = new Cycles();
  for (let index = 0; index < 3; index += 1) cycles.add(everything(UP, { kafka: DOWN }));
  const memory = { ...nothingKnown(0), plan: structuredClone(PLAN), components: { ...cycles.components } };
  delete (memory.components as Partial<typeof memory.components>).multimodal;
  delete (memory.plan.components as Partial<typeof memory.plan.components>).multimodal;
  assert.deepEqual(healthInputFaults(HEALTH_WORKFLOW_ID, { memory }), []);
  const taken = completed(memory, 1);
  assert.equal(statusOf(taken).state, 'starting', 'until the first cycle brings a whole plan');
  assert.equal(describeHealth(taken), 'the first cycle is under way');
  const { components } = statusOf({ ...taken, plan: PLAN });
  assert.equal(components.kafka?.level, 'severe');
  assert.equal(components.multimodal?.healthy, null);
});

test('what cannot be probed is not called healthy', () => {
  const cycles = new Cycles();
  cycles.add(everything({ outcome: 'unknown', seconds: 0, error: 'EMFILE' }));
  const memory = { ...nothingKnown(0), plan: PLAN, components: cycles.components };
  assert.deepEqual(statusOf(memory).healthy_components, []);
  assert.match(describeHealth(memory), /probing itself fails for database, kafka/);
});

suite('a maintenance window', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  for (const until of ['2026-01-01T01:00Z', '2026-01-01T01:00:00.5Z', '2026-01-01T01:00:00+00:30'])
    test(`until ${until}`, () => {
      const order = checkedMaintenance({ component: 'kafka', until }, now);
      assert.deepEqual(order, { components: ['kafka'], until: Date.parse(until) });
    });
  for (const until of ['2026-01-01T01:00', '2026-01-02', 'Fri, 02 Jan 2026 00:00:00', 7])
    test(`not until ${until}, which means another time elsewhere, or none`, () => {
      assert.match(String(checkedMaintenance({ component: 'kafka', until }, now)), /expected a time ahead/);
    });
});
