import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

const shards = 2;

/** An empty database, a namespace, a topic with its reader, and the variables for workers on them. */
async function setUp() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const topic = uniqueTopic();
  const reader = stack.use(await readTopics([topic]));
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_OUTBOX_SHARDS: String(shards),
  };
  return { database, namespace, topic, reader, env, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

test('a worker sets up an empty database, starts the relays, delivers, and tells so everywhere alike', async () => {
  await using world = await setUp();
  await using worker = await startWorker(world.env);
  await worker.ready();
  const rows = numberedRows({ topics: [world.topic], keys: 20, perKey: 10 });
  await insertRows(world.database.client, rows);
  await eventually('all rows', () => world.reader.received.length >= rows.length);
  assertExactlyOnceInOrder(world.reader.received, rows);

  const total = await eventually('the status of both relays', async () => {
    const statuses = await Promise.all(
      [0, 1].map((shard) => world.namespace.orchestrator.outboxRelay(shard).status()),
    );
    assert.ok(statuses.every(({ state, last_error }) => state === 'idle' && last_error === null));
    const sum = statuses.reduce((delivered, status) => delivered + status.delivered_total, 0);
    return sum === rows.length && sum;
  });
  assert.equal(total, rows.length);
  assert.deepEqual(await countByStatus(world.database.client), { published: rows.length });
  const metrics = await eventually('the gauges', async () => {
    const text = await (await fetch(`http://${worker.metricsAddress}/metrics`)).text();
    return text.includes('outbox_messages_pending') ? text : undefined;
  });
  const published = [...metrics.matchAll(/^outbox_messages_published_total\{.*\} (\d+)$/gm)];
  assert.equal(
    published.reduce((sum, [, value]) => sum + Number(value), 0),
    rows.length,
  );
  assert.match(metrics, /^outbox_messages_pending\{shard="0"\} 0$/m);
  assert.match(metrics, /^temporal_worker_task_slots_available/m, "the SDK's own metrics are there too");
});

test('a relay that somebody terminated is started again', async () => {
  await using world = await setUp();
  await using worker = await startWorker(world.env);
  await worker.ready();
  const handle = world.namespace.client.workflow.getHandle('outbox-relay-0');
  await eventually('the relay', () => handle.describe().then(({ status }) => status.name === 'RUNNING'));
  await handle.terminate('by a test');
  await eventually('the relay to be back', () =>
    handle.describe().then(({ status }) => status.name === 'RUNNING'),
  );
});

test('a wrong password ends the start with code 1 and one sentence', async () => {
  const url = Object.assign(new URL(testStack().env().SA01_DATABASE_URL!), { password: 'not-this-one' }).href;
  await using worker = await startWorker({ SA01_DATABASE_URL: url });
  await eventually('its end', () => worker.ended);
  assert.equal(await worker.end(), 1);
  assert.match(worker.output, /postgres_refused: password authentication failed/);
  assert.doesNotMatch(worker.output, /not-this-one|at file:/);
});

test('SIGTERM ends a worker in time with code 0, and its batch is settled', async () => {
  await using world = await setUp();
  await using worker = await startWorker(world.env);
  await worker.ready();
  await insertRows(world.database.client, numberedRows({ topics: [world.topic], keys: 50, perKey: 100 }));
  await eventually('the first rows', () => world.reader.received.length > 0);
  assert.equal(await worker.end('SIGTERM'), 0, worker.output);
  const { rows } = await world.database.client.query(
    'SELECT count(*)::int AS open FROM orchestrator.outbox_journal WHERE open_batch IS NOT NULL',
  );
  assert.equal(rows[0].open, 0);
});

suite('a start that cannot succeed says why in one sentence and ends with code 2', () => {
  for (const [name, value, sentence] of [
    ['SA01_DATABASE_URL', 'mysql://me:secret@localhost/x', /SA01_DATABASE_URL.*postgres/],
    ['SA01_KAFKA_BOOTSTRAP_SERVERS', 'localhost:99999', /SA01_KAFKA_BOOTSTRAP_SERVERS.*localhost:99999/],
    ['SA01_OUTBOX_SHARDS', 'many', /SA01_OUTBOX_SHARDS.*many/],
  ] as const) {
    test(`${name}=${value}`, async () => {
      await using worker = await startWorker({ [name]: value });
      await eventually('its end', () => worker.ended);
      assert.equal(await worker.end(), 2);
      assert.match(worker.output, sentence);
      assert.doesNotMatch(worker.output, /secret|at file:/);
    });
  }

  test('another number of shards than the database was set up with', async () => {
    await using world = await setUp();
    await using first = await startWorker(world.env);
    await first.ready();
    await using second = await startWorker({ ...world.env, SA01_OUTBOX_SHARDS: '3' });
    await eventually('its end', () => second.ended);
    assert.equal(await second.end(), 2);
    assert.match(second.output, /SA01_OUTBOX_SHARDS is 3, but this database was set up with 2/);
  });
});

test('the shards of a killed worker move to another one', async () => {
  await using world = await setUp();
  await using one = await startWorker(world.env);
  await one.ready();
  const owners = async () => {
    const { rows } = await world.database.client.query<{ owner: string }>(
      'SELECT owner FROM orchestrator.outbox_journal ORDER BY shard',
    );
    return rows.map(({ owner }) => owner?.split('@')[0]);
  };
  const ownsAll = ({ process }: WorkerProcess) =>
    eventually(`${process.pid} to own all shards`, async () =>
      (await owners()).every((owner) => owner === String(process.pid)),
    );
  await ownsAll(one);
  await using two = await startWorker(world.env);
  await two.ready();

  await one.end('SIGKILL');
  await ownsAll(two);
  const rows = numberedRows({ topics: [world.topic], keys: 10, perKey: 10 });
  await insertRows(world.database.client, rows);
  await eventually('delivery', () => world.reader.received.length >= rows.length);
  assertExactlyOnceInOrder(world.reader.received, rows);
});
