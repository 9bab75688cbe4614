import assert from 'node:assert/strict';
import { test } from 'node:test';
import type pg from 'pg';
import { completeCounts } from '../../src/domain/maintenance.ts';
import { keepSchedules, MAINTENANCE_SCHEDULE_ID } from '../../src/schedules.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

/** An empty database, a namespace, and the variables for workers on them. */
async function setUp() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const env = { SA01_DATABASE_URL: database.url, TEMPORAL_NAMESPACE: namespace.name };
  const schedule = namespace.client.schedule.getHandle(MAINTENANCE_SCHEDULE_ID);
  const scheduled = () => eventually('the Schedule', () => schedule.describe());
  return { database, namespace, schedule, scheduled, env, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Rows that were published eight days ago, which is older than the default retention. */
async function insertOld(client: pg.ClientBase, rows: number): Promise<void> {
  await client.query(
    `INSERT INTO core_outboxmessage (id, idempotency_key, topic, payload, created_at, published_at, status)
     SELECT gen_random_uuid(), gen_random_uuid(), 'old', '{}', now() - interval '9 days' + n * interval '1 millisecond',
       now() - interval '8 days', 'published'
     FROM generate_series(1, $1::int) AS n`,
    [rows],
  );
}

async function countOld(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ old: number }>(
    `SELECT count(*)::int AS old FROM core_outboxmessage WHERE topic = 'old'`,
  );
  return rows[0]!.old;
}

test('the Schedule of a worker purges, and tells so everywhere alike', async () => {
  await using world = await setUp();
  const { client } = world.database;
  await using worker = await startWorker(world.env);
  await worker.ready();
  await insertOld(client, 1_200);
  await client.query(
    `INSERT INTO core_idempotencyrecord (id, idempotency_key, operation_type, created_at, expires_at)
     VALUES (gen_random_uuid(), 'k', 'test', now(), now() - interval '1 minute')`,
  );
  await client.query(
    `INSERT INTO orchestrator.health_transition (key, component, event, from_level, to_level, at)
     VALUES ('k', 'kafka', 'failure', 'none', 'critical', now() - interval '31 days')`,
  );

  const dryRun = await world.namespace.orchestrator.startMaintenance({ dryRun: true });
  assert.deepEqual(
    (await dryRun.result()).purged,
    completeCounts({ published: 1_200, idempotency: 1, health: 1 }),
  );
  assert.equal(await countOld(client), 1_200);

  const { spec, policies, action } = await world.scheduled();
  assert.deepEqual(
    [spec.calendars?.[0]?.minute, policies.overlap, action.workflowType],
    [[{ start: 17, end: 17, step: 1 }], 'SKIP', 'maintenance'],
  );
  await world.schedule.trigger();
  const workflowId = await eventually('its workflow', async () => {
    const [taken] = (await world.schedule.describe()).info.recentActions;
    return taken?.action.workflow.workflowId;
  });
  assert.match(workflowId, /^maintenance\/scheduled-\d{4}-/);
  const { state, purged } = await world.namespace.client.workflow.getHandle(workflowId).result();
  assert.deepEqual(
    { state, purged },
    { state: 'done', purged: completeCounts({ published: 1_200, idempotency: 1, health: 1 }) },
  );
  assert.equal(await countOld(client), 0);
  await eventually('the metrics', async () => {
    const metrics = await (await fetch(`http://${worker.metricsAddress}/metrics`)).text();
    return (
      /^outbox_messages_purged_total(\{.*\})? 1200$/m.test(metrics) &&
      /^idempotency_records_purged_total(\{.*\})? 1$/m.test(metrics) &&
      /^health_transitions_purged_total(\{.*\})? 1$/m.test(metrics)
    );
  });
});

test('two workers make one Schedule; its action is kept up to date, the rest belongs to people', async () => {
  await using world = await setUp();
  const { client } = world.namespace;
  // Temporal describes a Schedule only a moment after it was made, and the quicker of the two has just made it.
  await eventually('both', async () => {
    await Promise.all([keepSchedules(client, 'first'), keepSchedules(client, 'first')]);
    return true;
  });
  const created = await world.scheduled();
  assert.equal(created.action.taskQueue, 'first');
  await keepSchedules(client, 'first');
  assert.deepEqual(
    (await world.schedule.describe()).info.lastUpdatedAt,
    created.info.lastUpdatedAt,
    'untouched',
  );

  await world.schedule.update((previous) => ({ ...previous, spec: { intervals: [{ every: '2 hours' }] } }));
  await world.schedule.pause('a quiet week');
  await keepSchedules(client, 'second');
  const updated = await eventually('the update', async () => {
    const found = await world.schedule.describe();
    return found.action.taskQueue === 'second' ? found : undefined;
  });
  assert.deepEqual(
    { paused: updated.state.paused, note: updated.state.note, every: updated.spec.intervals?.[0]?.every },
    { paused: true, note: 'a quiet week', every: 7_200_000 },
  );
  assert.equal(updated.policies.overlap, 'SKIP');
  assert.equal(updated.action.workflowId, 'maintenance/scheduled');
});

test('a worker whose Schedule cannot be kept says so and works on', async () => {
  await using world = await setUp();
  // Where Temporal keeps the state of the Schedule there is something else, which does not answer.
  await world.namespace.client.workflow.start('other', {
    workflowId: `temporal-sys-scheduler:${MAINTENANCE_SCHEDULE_ID}`,
    taskQueue: 'nobody',
  });
  await using worker = await startWorker(world.env);
  await worker.ready();
  await eventually('the warning', () => worker.output.includes('schedules cannot be kept'));
  await insertOld(world.database.client, 10);
  const run = await world.namespace.orchestrator.startMaintenance();
  assert.equal((await run.result()).purged.published, 10);
});

test('a worker killed in the middle of a purge: another one ends it, and delivery does not suffer', async () => {
  await using world = await setUp();
  const { client } = world.database;
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  const rows = numberedRows({ topics: [topic], keys: 20, perKey: 300 });
  await using first = await startWorker(world.env);
  await first.ready();
  await insertOld(client, 60_000);
  const run = await world.namespace.orchestrator.startMaintenance();
  await insertRows(client, rows.slice(0, 2_000));
  await eventually('a part to be purged', async () => (await countOld(client)) < 50_000);
  await insertRows(client, rows.slice(2_000, 4_000));
  await first.end('SIGKILL');
  const left = await countOld(client);
  assert.ok(left > 0, 'it was killed in the middle');

  await using second = await startWorker(world.env);
  await second.ready();
  await insertRows(client, rows.slice(4_000));
  const { state, purged } = await run.result();
  assert.equal(state, 'done');
  assert.equal(await countOld(client), 0);
  assert.ok(purged.published > left, 'what the first one did counts, up to its last heartbeat');
  await eventually('all rows', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  await eventually(
    'all of them to be settled',
    async () => (await countByStatus(client)).published === rows.length,
  );
});

test('a worker that is told to stop does not wait for the end of a purge', async () => {
  await using world = await setUp();
  await using worker = await startWorker(world.env);
  await worker.ready();
  await insertOld(world.database.client, 60_000);
  const run = await world.namespace.orchestrator.startMaintenance();
  await eventually('a part to be purged', async () => (await countOld(world.database.client)) < 60_000);
  assert.equal(await worker.end('SIGTERM'), 0, worker.output);
  assert.ok((await countOld(world.database.client)) > 0);
  await using successor = await startWorker(world.env);
  await successor.ready();
  assert.equal((await run.result()).purged.published, 60_000, 'nothing was counted twice or not at all');
});
