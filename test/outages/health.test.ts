import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite, test } from 'node:test';
import type { HealthStatus } from '../../src/client.ts';
import type { HealthNotice } from '../../src/domain/health.ts';
import type { ServiceName } from '../../stack/stack.ts';
import { SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';
import { emptyDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics } from '../support/kafka.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

/** A worker whose health cycle takes a second, a stand-in for SomaBrain and one for the gateway. */
async function platform(overrides: object = {}) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const reader = stack.use(await readTopics(['degradation.events']));
  const [somabrain, gateway] = [stack.use(new SomaBrainStandIn()), stack.use(new SomaBrainStandIn())];
  await Promise.all([somabrain.listen(), gateway.listen()]);
  const directory = await mkdtemp(path.join(tmpdir(), 'health-'));
  stack.defer(() => rm(directory, { recursive: true }));
  const file = path.join(directory, 'health.json');
  const configuration = {
    intervalSeconds: 1,
    rules: { softIntervalSeconds: 1, graceSeconds: 0 },
    components: { gateway: { url: `${gateway.url}/health`, limitSeconds: 3 } },
    ...overrides,
  };
  await writeFile(file, JSON.stringify(configuration));
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_SOMABRAIN_URL: somabrain.url,
    SA01_HEALTH_CONFIG: file,
  };
  const start = async () => {
    const worker = stack.use(await startWorker(env));
    await worker.ready();
    return worker;
  };
  const health = namespace.orchestrator.healthCheck();
  const becomes = (what: string, is: (status: HealthStatus) => boolean) =>
    eventually(what, async () => is(await health.status()));
  const worker = await start();
  await becomes('the first cycle', ({ healthy_components }) => healthy_components.includes('gateway'));
  const received = () => ofDatabase(database, reader.received);
  return {
    database,
    health,
    somabrain,
    gateway,
    worker,
    start,
    becomes,
    received,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** What the consumer saw of this database's notices: other tests have theirs on the same topic. */
async function ofDatabase(
  database: TestDatabase,
  received: { value: string; headers: Record<string, string> }[],
) {
  const client = await database.connect();
  const { rows } = await client.query("SELECT id FROM core_outboxmessage WHERE topic = 'degradation.events'");
  const ids = new Set(rows.map(({ id }) => id));
  const ours = received.filter(({ headers }) => ids.has(headers.message_id));
  return {
    stored: rows.length,
    notices: ours.map(({ value }) => JSON.parse(value) as HealthNotice['payload']),
  };
}

const brief = ({ component, event, severity }: HealthNotice['payload']) =>
  `${component} ${event} ${severity}`;

suite('an outage is told once, with its root and what it affects, and so is its end', () => {
  const outages: [service: ServiceName, root: string, affected: string[]][] = [
    ['kafka', 'kafka', ['gateway', 'conversation_worker', 'tool_executor']],
    [
      'postgres',
      'database',
      [
        'gateway',
        'auth_service',
        'conversation_worker',
        'tool_executor',
        'upload_service',
        'multimodal',
        'backup_service',
        'task_scheduler',
      ],
    ],
    ['redis', 'redis', ['storage', 'gateway', 'auth_service', 'conversation_worker', 'task_scheduler']],
  ];
  for (const [service, root, affected] of outages) {
    test(service, async () => {
      await using on = await platform();
      testStack().signal(service, 'SIGKILL');
      try {
        // The gateway follows, as a service does that cannot work without it.
        on.gateway.behave({ health: '503' });
        await on.becomes('the root', ({ roots }) => roots.length > 0);
        const { roots, components, recommendations, mitigation_actions } = await on.health.status();
        assert.deepEqual(
          roots.map(({ component }) => component),
          [root],
        );
        assert.deepEqual(roots[0]?.affected, affected);
        assert.deepEqual(components.gateway?.suppressed_by, [root]);
        assert.match(recommendations.join(), new RegExp(`^${root}: `));
        assert.equal(mitigation_actions.length, 1);
      } finally {
        await testStack().start([service]);
        on.gateway.behave({ health: 'ready' });
      }
      await on.becomes('the recovery', ({ overall_level }) => overall_level === 'none');
      await eventually('the notices', async () => (await on.received()).notices.length >= 2);
      await on.health.checkNow();
      await on.becomes('everything to be written', ({ unwritten }) => unwritten === 0);
      const { stored, notices } = await on.received();
      assert.deepEqual(notices.map(brief), [`${root} failure critical`, `${root} recovery recovery`]);
      assert.equal(stored, 2);
      assert.deepEqual(
        notices[0]?.affected.filter((name) => affected.includes(name)),
        affected,
      );
    });
  }

  test('two at once are two roots', async () => {
    await using on = await platform();
    testStack().signal('redis', 'SIGKILL');
    on.somabrain.behave({ health: 'not ready' });
    try {
      await on.becomes('both roots', ({ roots }) => roots.length === 2);
      const { conversation_worker } = (await on.health.status()).components;
      assert.deepEqual(conversation_worker?.suppressed_by, ['redis', 'somabrain']);
    } finally {
      await testStack().start(['redis']);
      on.somabrain.behave({ health: 'ready' });
    }
    await on.becomes('the recovery', ({ overall_level }) => overall_level === 'none');
    await eventually('the notices', async () => (await on.received()).notices.length === 4);
    assert.deepEqual((await on.received()).notices.map(brief).sort(), [
      'redis failure critical',
      'redis recovery recovery',
      'somabrain failure critical',
      'somabrain recovery recovery',
    ]);
  });
});

test('the workers die and Temporal is restarted: the cycle goes on, knows what it knew, and tells nothing twice', async () => {
  await using on = await platform();
  const port = Number(new URL(on.somabrain.url).port);
  await on.somabrain.close();
  await eventually('the notice', async () => (await on.received()).notices.length === 1);
  const { since } = await on.health.component('somabrain');
  on.worker.process.kill('SIGKILL');
  testStack().signal('temporal', 'SIGKILL');
  await testStack().start(['temporal']);
  await on.start();
  const before = Date.now();
  await on.becomes('a cycle', ({ timestamp }) => Date.parse(timestamp ?? '') > before);
  assert.equal((await on.health.component('somabrain')).since, since);
  await on.somabrain.listen(port);
  await on.becomes('the recovery', ({ overall_level }) => overall_level === 'none');
  await eventually('its notice', async () => (await on.received()).notices.length > 1);
  assert.deepEqual((await on.received()).notices.map(brief), [
    'somabrain failure critical',
    'somabrain recovery recovery',
  ]);
});

suite('a component that answers, but not well', () => {
  const gatewayWith = (gateway: object) => ({ components: { gateway } });

  test('slowly: minor, moderate, severe', async () => {
    // The platform's limits of 5, 10 and 15 seconds, shortened.
    await using on = await platform();
    const url = `${on.gateway.url}/health`;
    await using slow = await platform(gatewayWith({ url, limitSeconds: 10, slowSeconds: [0.5, 1, 1.5] }));
    for (const [delaySeconds, level] of [
      [0.6, 'minor'],
      [1.2, 'moderate'],
      [2, 'severe'],
      [0, 'none'],
    ] as const) {
      on.gateway.behave({ delaySeconds });
      await slow.becomes(level, ({ components }) => components.gateway?.level === level);
    }
  });

  for (const [errorRate, level] of [
    [0.15, 'minor'],
    [0.25, 'moderate'],
  ] as const) {
    test(`with ${errorRate * 100} % of errors: ${level}`, async () => {
      await using on = await platform();
      on.gateway.behave({ errorRate });
      await on.becomes(level, ({ components }) => components.gateway?.level === level);
      assert.equal((await on.health.component('gateway')).healthy, true);
    });
  }
});

test("the metrics say the same, by the platform's names", async () => {
  await using on = await platform();
  on.somabrain.behave({ health: 'drop' });
  await on.becomes('the root', ({ roots }) => roots.length > 0);
  const metrics = await (await fetch(`http://${on.worker.metricsAddress}/metrics`)).text();
  for (const line of [
    /^service_health_state\{.*service="somabrain".*\} 0$/m,
    /^service_health_state\{.*service="kafka".*\} 1$/m,
    /^service_degradation_level\{.*service="somabrain".*\} [34]$/m,
    /^service_degradation_level\{.*service="conversation_worker".*\} 1$/m,
    /^service_error_rate\{.*service="kafka".*\} 0$/m,
    /^service_latency_seconds_bucket\{.*service="kafka".*le="0.1".*\} \d+$/m,
    /^cascading_failures_total\{.*affected_service="tool_executor".*source_service="somabrain".*\} 1$/m,
    /^degradation_notices_total\{.*severity="critical".*\} 1$/m,
  ])
    assert.ok(
      line.test(metrics),
      `${line} is not among\n${metrics.match(/^(service|casc|degr).*(?:ain|ka|worker|tool_executor|crit).*$/gm)?.join('\n')}`,
    );
});
