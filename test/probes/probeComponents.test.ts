import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CancelledFailure } from '@temporalio/activity';
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import { createHealthActivities } from '../../src/activities/health.ts';
import type { HealthPlan, ProbeReport, ProbeRequest } from '../../src/domain/health.ts';
import type { HealthModel } from '../../src/probes/target.ts';
import { SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';
import { silentListener } from '../support/listeners.ts';
import { probeTools, stackAddresses } from '../support/probes.ts';

const plan = { version: 'b' } as HealthPlan;

function environment(probing: HealthModel['probing']) {
  const { temporal, [Symbol.asyncDispose]: close } = probeTools();
  const kafka = { brokers: stackAddresses().brokers, ssl: false, sasl: undefined } as const;
  const logger = pino({ level: 'silent' });
  const activities = createHealthActivities({
    health: { plan, probing },
    kafka: { ...kafka },
    temporal,
    logger,
  });
  const env = new MockActivityEnvironment();
  const ask = (request: ProbeRequest) => env.run(activities.probeComponents, request) as Promise<ProbeReport>;
  return { env, ask, [Symbol.asyncDispose]: close };
}

const limitSeconds = 10;

test('Probes all or the ones asked for, and brings the plan to those who have another', async () => {
  await using brain = new SomaBrainStandIn();
  await brain.listen();
  await using health = environment({
    kafka: { target: { kind: 'kafka' }, limitSeconds },
    temporal: { target: { kind: 'temporal' }, limitSeconds },
    somabrain: { target: { kind: 'somabrain', url: brain.url }, limitSeconds },
  });
  const all = await health.ask({ planVersion: null });
  assert.deepEqual(all.plan, plan);
  assert.deepEqual(Object.keys(all.results), ['kafka', 'temporal', 'somabrain']);
  for (const result of Object.values(all.results)) assert.equal(result.outcome, 'up');

  const some = await health.ask({ planVersion: 'b', only: ['somabrain', 'llm'] });
  assert.deepEqual(Object.keys(some), ['results']);
  assert.deepEqual(Object.keys(some.results), ['somabrain']);
});

test('Takes as long as its slowest probe, and ends when it is cancelled', async () => {
  await using listener = await silentListener();
  const url = `http://${listener.address}`;
  await using health = environment({
    somabrain: { target: { kind: 'somabrain', url }, limitSeconds: 1 },
    gateway: { target: { kind: 'http', url }, limitSeconds: 3_600 },
  });
  const { results } = await health.ask({ planVersion: 'b', only: ['somabrain'] });
  assert.equal(results.somabrain?.timedOut, true);

  const probing = health.ask({ planVersion: 'b' });
  health.env.cancel();
  await assert.rejects(probing, CancelledFailure, 'no report: what was cut off says nothing of anybody');
});
