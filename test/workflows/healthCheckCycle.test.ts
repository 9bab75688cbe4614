import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ApplicationFailure } from '@temporalio/activity';
import { WorkflowExecutionAlreadyStartedError, WorkflowFailedError } from '@temporalio/client';
import { OrchestratorClient } from '../../src/client.ts';
import {
  HEALTH_WORKFLOW_ID,
  type HealthNotice,
  type HealthPlan,
  type HealthRecord,
  type ProbeRequest,
  type ProbeResult,
} from '../../src/domain/health.ts';
import { COMPONENT_NAMES, type ComponentName } from '../../src/domain/healthComponents.ts';
import type { HealthCheckInput } from '../../src/domain/healthMemory.ts';
import { healthCheckCycle, maintenanceSignal } from '../../src/workflows/health.ts';
import { eventually } from '../support/eventually.ts';
import { healthPlan } from '../support/healthPlan.ts';
import { temporalNamespace } from '../support/worker.ts';
import { runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';
const UP: ProbeResult = { outcome: 'up', seconds: 0.01 };
const DOWN: ProbeResult = { outcome: 'down', seconds: 0.01, error: 'connect ECONNREFUSED' };

/** Confirmed within seconds, while a cycle alone would take minutes. */
const quick = healthPlan({ rules: { softIntervalSeconds: 1, graceSeconds: 0 } });

/** What the activities of the cycle meet; tests change it as it runs. */
class World {
  plan: HealthPlan = quick;
  /** Components that are not simply up. */
  readonly troubles: Partial<Record<ComponentName, ProbeResult>> = {};
  database: Error | undefined;
  webhook: Error | 'off' | undefined = 'off';
  afterProbing = (): unknown => undefined;
  /** What was probed, activity by activity. */
  readonly probed: (ComponentName[] | 'all')[] = [];
  readonly written: HealthRecord[] = [];
  readonly sent: HealthNotice[] = [];

  readonly activities = {
    probeComponents: async ({ only, planVersion }: ProbeRequest) => {
      this.probed.push(only ?? 'all');
      const results = (only ?? COMPONENT_NAMES).map((name) => [name, this.troubles[name] ?? UP]);
      this.afterProbing();
      return {
        ...(planVersion === this.plan.version ? {} : { plan: this.plan }),
        results: Object.fromEntries(results),
      };
    },
    recordHealth: async (record: HealthRecord) => {
      if (this.database) throw this.database;
      this.written.push(record);
    },
    sendHealthWebhook: async (notice: HealthNotice) => {
      if (this.webhook instanceof Error) throw this.webhook;
      if (this.webhook === undefined) this.sent.push(notice);
      return this.webhook ?? 'sent';
    },
  };

  told(): string[] {
    const notices = this.written.flatMap((record) => record.notices);
    return notices.map(({ component, payload }) => `${component} ${payload.event}`);
  }
}

/** The cycle, with ten minutes between two full cycles unless the test says otherwise. */
async function cycleIn(world: World, input: HealthCheckInput = { intervalSeconds: 600 }) {
  const stack = new AsyncDisposableStack();
  const { client, name } = stack.use(await temporalNamespace());
  stack.use(await runWorkflows(name, taskQueue, world.activities));
  const start = { workflowId: HEALTH_WORKFLOW_ID, taskQueue };
  await client.workflow.start(healthCheckCycle, { ...start, args: [input] });
  const health = new OrchestratorClient(client, taskQueue).healthCheck();
  const workflow = client.workflow.getHandle(HEALTH_WORKFLOW_ID);
  await eventually('the first cycle', async () => (await health.status()).state !== 'starting');
  return { client, start, workflow, health, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const away = (what: string) => ApplicationFailure.retryable(`${what} is away`, 'postgres_unavailable');

test('all is well: one activity a cycle, and every component has its status', async () => {
  const world = new World();
  await using cycle = await cycleIn(world);
  const status = await cycle.health.status();
  assert.equal(status.overall_level, 'none');
  assert.deepEqual(status.healthy_components, [...COMPONENT_NAMES]);
  assert.equal(status.total_components, COMPONENT_NAMES.length);
  assert.deepEqual(status.roots, []);
  assert.deepEqual(Object.keys(status.components), [...COMPONENT_NAMES]);
  assert.equal(status.components.kafka?.breaker, 'closed');
  await cycle.health.checkNow();
  await eventually('the second cycle', () => world.probed.length === 2);
  assert.deepEqual(world.probed, ['all', 'all']);
  assert.deepEqual(world.written, [], 'nothing has changed, so nothing is written');
  const { events } = await cycle.workflow.fetchHistory();
  const activities = events?.filter((event) => event.activityTaskScheduledEventAttributes);
  assert.equal(activities?.length, 2);
});

test('an outage is confirmed by probes of what it may be, within one cycle, and told once; so is its end', async () => {
  const world = new World();
  await using cycle = await cycleIn(world);
  world.troubles.kafka = DOWN;
  world.troubles.gateway = DOWN;
  await cycle.health.checkNow();
  await eventually('the notice', () => world.told().length > 0);
  assert.deepEqual(world.probed, [
    'all',
    'all',
    ['database', 'kafka', 'redis', 'temporal', 'gateway'],
    ['database', 'kafka', 'redis', 'temporal', 'gateway'],
  ]);
  const [root] = (await cycle.health.status()).roots;
  assert.equal(root?.component, 'kafka');
  assert.deepEqual(root?.affected, ['gateway', 'conversation_worker', 'tool_executor']);
  assert.deepEqual((await cycle.health.component('gateway')).suppressed_by, ['kafka']);

  for (const name of ['kafka', 'gateway'] as const) delete world.troubles[name];
  await cycle.health.checkNow();
  // The status knows it before it is written.
  await eventually('the recovery', () => world.told().length > 1);
  assert.equal((await cycle.health.status()).overall_level, 'none');
  assert.deepEqual(world.told(), ['kafka failure', 'kafka recovery']);
  const events = (await cycle.health.history(3)).map(({ component, event }) => `${component} ${event}`);
  assert.equal(events.length, 3, String(events));
  assert.ok(
    events.every((event) => event.endsWith('recovery')),
    String(events),
  );
});

test('one probe that fails once is looked at again at once, and nothing is told', async () => {
  const world = new World();
  await using cycle = await cycleIn(world);
  world.troubles.redis = DOWN;
  world.afterProbing = () => delete world.troubles.redis;
  await cycle.health.checkNow();
  await eventually('the second look', () => world.probed.length === 3);
  await cycle.health.checkNow();
  await eventually('the next cycle', () => world.probed.length === 4);
  assert.deepEqual(world.probed, ['all', 'all', ['redis'], 'all']);
  assert.deepEqual(world.written, []);
});

test('while Postgres is away the cycles go on; when it is back, all is written once and in order', async () => {
  const world = new World();
  await using cycle = await cycleIn(world, { intervalSeconds: 1 });
  world.database = away('Postgres');
  world.troubles.database = DOWN;
  await eventually('the outage', async () => (await cycle.health.status()).unwritten > 0);
  world.troubles.redis = DOWN;
  await eventually('a second root', async () => (await cycle.health.status()).roots.length === 2);
  assert.equal((await cycle.health.status()).last_error, 'postgres_unavailable: Postgres is away');
  assert.deepEqual(world.told(), []);
  world.troubles.database = UP;
  await eventually('the recovery', async () => (await cycle.health.status()).roots.length === 1);
  world.database = undefined;
  await eventually('the writing', async () => (await cycle.health.status()).unwritten === 0);
  assert.deepEqual(world.told(), ['database failure', 'redis failure', 'database recovery']);
  assert.equal((await cycle.health.status()).last_error, null);
});

test('paused, nothing is probed; resumed, everything at once', async () => {
  const world = new World();
  await using cycle = await cycleIn(world, { intervalSeconds: 1 });
  await cycle.health.pause();
  await eventually('the pause', async () => (await cycle.health.status()).state === 'paused');
  const probes = world.probed.length;
  world.troubles.kafka = DOWN;
  await cycle.health.checkNow();
  assert.equal((await cycle.health.status()).state, 'paused');
  await cycle.health.resume();
  await eventually('the notice', () => world.told().length > 0);
  assert.equal(world.probed[probes], 'all');
});

suite('maintenance', () => {
  test('notices rest while it lasts, checking does not, and its end tells what differs', async () => {
    const world = new World();
    await using cycle = await cycleIn(world, { intervalSeconds: 1 });
    await cycle.health.maintenance('kafka', new Date(Date.now() + 3_600_000));
    world.troubles.kafka = DOWN;
    await eventually('the level', async () => (await cycle.health.component('kafka')).healthy === false);
    assert.deepEqual(world.told(), []);
    assert.match((await cycle.health.component('kafka')).maintenance_until ?? '', /^20/);
    await cycle.health.maintenance('kafka', null);
    await eventually('the notice', () => world.told().length > 0);
    assert.deepEqual(world.told(), ['kafka failure']);
    const events = (await cycle.health.history()).filter(({ component }) => component === 'kafka');
    assert.deepEqual(
      events.map(({ event }) => event).filter((event) => event.startsWith('maintenance')),
      ['maintenance_ended', 'maintenance_started'],
    );
  });

  const orders: [order: unknown, error: RegExp][] = [
    [
      { component: 'kafak', until: '2100-01-01T00:00:00Z' },
      /component is "kafak", expected "all" or one of database,/,
    ],
    [{ component: 'kafka', until: 'tomorrow' }, /until is "tomorrow", expected a time ahead/],
    [
      { component: 'kafka', until: '2020-01-01T00:00:00Z' },
      /until is "2020-01-01T00:00:00Z", expected a time ahead/,
    ],
    ['kafka', /component is undefined/],
    [null, /component is undefined/],
  ];
  test('an order that makes no sense is said to be one, and changes nothing', async () => {
    const world = new World();
    await using cycle = await cycleIn(world);
    for (const [order, error] of orders) {
      await cycle.workflow.signal(maintenanceSignal, order as { component: string; until: string });
      await eventually(`the answer to ${JSON.stringify(order)}`, async () =>
        error.test((await cycle.health.status()).last_error ?? ''),
      );
    }
    const { components } = await cycle.health.status();
    assert.ok(Object.values(components).every((component) => component.maintenance_until === undefined));
  });
});

test('what is known goes from run to run, also while signals arrive', async () => {
  const world = new World();
  world.troubles.kafka = DOWN;
  await using cycle = await cycleIn(world, { intervalSeconds: 1, historyLimit: 40 });
  await eventually('the notice', () => world.told().length > 0);
  const { runId } = await cycle.workflow.describe();
  const runs = new Set<string>();
  await eventually('three more runs', async () => {
    await cycle.health.checkNow();
    const described = await cycle.workflow.describe();
    assert.ok(described.historyLength < 100, `${described.historyLength} events`);
    if (described.runId !== runId) runs.add(described.runId);
    return runs.size >= 3;
  });
  assert.deepEqual(world.told(), ['kafka failure'], 'told once, not once a run');
  const kafka = await cycle.health.component('kafka');
  assert.equal(kafka.breaker, 'open');
  assert.equal(kafka.level, 'critical');
});

test('another plan, as another configuration makes it, counts from the next cycle on', async () => {
  const world = new World();
  await using cycle = await cycleIn(world);
  world.troubles.redis = { outcome: 'up', seconds: 2 };
  world.plan = healthPlan({
    version: 'another',
    rules: { softIntervalSeconds: 1, graceSeconds: 0 },
    components: { redis: { slowSeconds: [0.1, 1, 10] }, gateway: { monitoring: 'unmonitored' } },
  });
  await cycle.health.checkNow();
  await eventually(
    'the level',
    async () => (await cycle.health.status()).components.redis?.level === 'moderate',
  );
  const { gateway } = (await cycle.health.status()).components;
  assert.deepEqual([gateway?.healthy, gateway?.monitoring], [null, 'unmonitored']);
});

test('a webhook that is away delays nobody, and gets all notices in order when it is back', async () => {
  const world = new World();
  world.webhook = ApplicationFailure.retryable('the webhook is away', 'webhook_unavailable');
  await using cycle = await cycleIn(world, { intervalSeconds: 1, historyLimit: 60 });
  world.troubles.kafka = DOWN;
  await eventually('the outage', () => world.told().length === 1);
  delete world.troubles.kafka;
  await eventually('the recovery', () => world.told().length === 2);
  const { runId } = await cycle.workflow.describe();
  await eventually('another run', async () => (await cycle.workflow.describe()).runId !== runId);
  assert.equal((await cycle.health.status()).unsent, 2);
  world.webhook = undefined;
  await eventually('the webhook', () => world.sent.length === 2);
  assert.deepEqual(
    world.sent.map(({ payload }) => payload.event),
    ['failure', 'recovery'],
  );
});

suite('queries that ask for nothing that there is', () => {
  test('get a sentence, and the cycle goes on', async () => {
    const world = new World();
    await using cycle = await cycleIn(world);
    await assert.rejects(
      cycle.health.component('kafak' as 'kafka'),
      /component "kafak" is unknown: expected one of/,
    );
    for (const limit of [0, -1, 201, 1.5, 'ten'])
      await assert.rejects(cycle.health.history(limit as number), /expected a whole number from 1 to 200/);
    assert.equal((await cycle.health.status()).state, 'checking');
  });
});

test('started twice, the second is told that it runs', async () => {
  await using cycle = await cycleIn(new World());
  const again = cycle.client.workflow.start(healthCheckCycle, { ...cycle.start, args: [] });
  await assert.rejects(again, WorkflowExecutionAlreadyStartedError);
});

suite('bad input fails the workflow at once', () => {
  const inputs: [name: string, input: unknown, message: RegExp, workflowId?: string][] = [
    ['another id', {}, /workflow id is "mine": expected health-check-cycle/, 'mine'],
    [
      'an interval that is no number',
      { intervalSeconds: 'often' },
      /intervalSeconds is "often": expected a whole/,
    ],
    [
      'an interval of nothing',
      { intervalSeconds: 0 },
      /intervalSeconds is 0: expected a whole number from 1 to 3600/,
    ],
    ['an interval of a day', { intervalSeconds: 86_400 }, /intervalSeconds is 86400/],
    ['an interval of half a second', { intervalSeconds: 0.5 }, /intervalSeconds is 0.5/],
    ['a misspelt name', { interval: 30 }, /does not know "interval": expected intervalSeconds/],
    ['a list', [30], /takes no input, or an object: got \[30\]/],
    ['a number', 30, /takes no input, or an object: got 30/],
    ['a memory that is none', { memory: { plan: null } }, /memory is what an earlier run left/],
    [
      'a history limit that leaves no room',
      { historyLimit: 3 },
      /historyLimit is 3: expected a whole number from 20/,
    ],
  ];
  for (const [name, input, message, workflowId = HEALTH_WORKFLOW_ID] of inputs) {
    test(name, async () => {
      await using namespace = await temporalNamespace();
      await using _worker = await runWorkflows(namespace.name, taskQueue, new World().activities);
      const result = namespace.client.workflow.execute(healthCheckCycle, {
        workflowId,
        taskQueue,
        args: [input as HealthCheckInput],
      });
      await assert.rejects(result, (error: unknown) => {
        assert.ok(
          error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure,
          String(error),
        );
        assert.equal(error.cause.type, 'invalid_input');
        assert.match(error.cause.message, message);
        return true;
      });
    });
  }
});
