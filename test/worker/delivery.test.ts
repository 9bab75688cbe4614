import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_DELIVERIES } from '../../src/database/outboxDelivery.ts';
import { outboxDeliveryWorkflowId } from '../../src/domain/outboxDelivery.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

/** What no record can be made of, until somebody mends it. */
const bad = { headers: ['bad'] };

/** A worker on an empty database and a namespace of its own, and a topic with its reader. */
async function setUp() {
  const stack = new AsyncDisposableStack();
  const { client, url } = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const topic = uniqueTopic();
  const reader = stack.use(await readTopics([topic]));
  const start = async () => {
    const worker = stack.use(
      await startWorker({ SA01_DATABASE_URL: url, TEMPORAL_NAMESPACE: namespace.name }),
    );
    await worker.ready();
    return worker;
  };
  const stored = async (id: string | undefined) => {
    const { rows } = await client.query('SELECT * FROM core_outboxmessage WHERE id = $1', [id]);
    return rows[0];
  };
  return {
    client,
    namespace,
    topic,
    received: reader.received,
    start,
    worker: await start(),
    stored,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

type World = Awaited<ReturnType<typeof setUp>>;

/** Messages that became dead letters at their first attempt, and could be delivered now. */
async function deadLetters({ client, topic }: World, keys: number, perKey: number) {
  const rows = numberedRows({ topics: [topic], keys, perKey });
  await client.query('BEGIN');
  await insertRows(
    client,
    rows.map((row, index) => ({ ...row, ...bad, idempotencyKey: `original ${index}` })),
  );
  await client.query('UPDATE core_outboxmessage SET max_attempts = 1');
  await client.query('COMMIT');
  await eventually('the letters', async () => (await countByStatus(client)).dead === rows.length);
  await client.query(`UPDATE core_deadlettermessage SET headers = '{"event_type": "mended"}'`);
  return rows;
}

const unresolved = async ({ client }: World): Promise<number> => {
  const { rows } = await client.query<{ letters: number }>(
    'SELECT count(*)::int AS letters FROM core_deadlettermessage WHERE NOT resolved',
  );
  return rows[0]!.letters;
};

test('a parked message has a workflow: seen, mended and hurried it is delivered, discarded it is a dead letter', async () => {
  await using world = await setUp();
  const { client, topic, namespace, received } = world;
  const [mended, behind, given] = await insertRows(client, [
    { topic, key: 'a', ...bad },
    { topic, key: 'a' },
    { topic, key: 'b', ...bad },
  ]);
  const delivery = namespace.orchestrator.outboxDelivery(mended!);
  const { state, attempts, last_error } = await eventually('two attempts', async () => {
    const status = await delivery.status();
    const row = await world.stored(mended);
    const agrees =
      status.attempts === row.attempts && status.next_retry_at === row.next_retry_at?.toISOString();
    return status.attempts >= 2 && agrees ? status : undefined;
  });
  assert.deepEqual([state, last_error], ['waiting', (await world.stored(mended)).last_error]);
  const handle = namespace.client.workflow.getHandle(outboxDeliveryWorkflowId(mended!));
  await eventually("Temporal's next attempt", async () => {
    const { raw } = await handle.describe();
    return raw.pendingActivities?.[0]?.attempt === attempts + 1;
  });
  await eventually('the relay to tell of both', async () => {
    const statuses = await Promise.all(
      [0, 1].map((shard) =>
        namespace.orchestrator
          .outboxRelay(shard)
          .status()
          .catch(() => undefined),
      ),
    );
    return statuses.reduce((sum, status) => sum + (status?.parked ?? 0), 0) === 2;
  });

  await client.query(
    `UPDATE core_outboxmessage SET headers = '{}', next_retry_at = now() + interval '1 hour' WHERE id = $1`,
    [mended],
  );
  await delivery.retryNow();
  assert.equal((await delivery.result()).state, 'delivered');
  await eventually('both', () => received.length === 2);
  assert.deepEqual(
    received.map(({ headers }) => headers.message_id),
    [mended, behind],
  );

  const another = namespace.orchestrator.outboxDelivery(given!);
  await another.discard();
  assert.equal((await another.result()).state, 'dead');
  const { rows } = await client.query(
    'SELECT error_type, original_outbox_id AS id FROM core_deadlettermessage',
  );
  assert.deepEqual(rows, [{ error_type: 'discarded', id: given }]);
});

test('a terminated workflow strands nothing: the relay makes the attempts that are left', async () => {
  await using world = await setUp();
  const { client, topic, namespace, received } = world;
  const [id] = await insertRows(client, [{ topic, key: 'a', ...bad }]);
  const handle = namespace.client.workflow.getHandle(outboxDeliveryWorkflowId(id!));
  await eventually('its workflow', () => handle.describe().then(({ status }) => status.name === 'RUNNING'));
  await handle.terminate('by a test');
  await client.query(`UPDATE core_outboxmessage SET headers = '{}' WHERE id = $1`, [id]);
  await eventually('the message', () => received.length === 1, { withinMs: 40_000 });
});

test('a flood of refused messages gets a limited number of workflows, and each dies in its time', async () => {
  await using world = await setUp();
  const { client, namespace } = world;
  const flood = Array.from({ length: 120 }, (_, number) => ({ topic: 'no topic', key: `key-${number}` }));
  await client.query('BEGIN');
  await insertRows(client, flood);
  await client.query('UPDATE core_outboxmessage SET max_attempts = 4');
  await client.query('COMMIT');
  const query = `WorkflowType = 'outboxDelivery'`;
  const count = async (condition: string) =>
    (await namespace.client.workflow.count(`${query} ${condition}`)).count;
  let most = 0;
  await eventually(
    'all to be dead',
    async () => {
      most = Math.max(most, await count(`AND ExecutionStatus = 'Running'`));
      return (await countByStatus(client)).dead === flood.length;
    },
    { everyMs: 250, withinMs: 120_000 },
  );
  // One whose row has just died makes room a moment before it ends.
  assert.ok(most > 0 && most <= MAX_DELIVERIES * 1.5, `${most} at once`);
  await eventually(
    'the workflows to end',
    async () => (await count(`AND ExecutionStatus = 'Running'`)) === 0,
    { withinMs: 180_000 },
  );
  assert.equal(await count(`AND ExecutionStatus != 'Completed'`), 0, 'none of them failed');
  const { rows } = await client.query(
    `SELECT count(*)::int AS letters, min(attempts) AS least, max(attempts) AS most FROM core_deadlettermessage`,
  );
  assert.deepEqual(rows, [{ letters: 120, least: 4, most: 4 }]);
});

test('dead letters are sent again in the order of their keys, as many as are asked for, and then resolved', async () => {
  await using world = await setUp();
  const { client, namespace, received, topic } = world;
  const rows = await deadLetters(world, 10, 25);
  const { orchestrator } = namespace;
  const dry = await (await orchestrator.replayDeadLetters({ topic, dryRun: true })).result();
  assert.equal(dry.preview?.found, rows.length);
  assert.equal(await unresolved(world), rows.length);

  const limited = await orchestrator.replayDeadLetters({ topic, limit: 120, resolvedBy: 'me' });
  assert.deepEqual((await limited.result()).resolved, 120);
  await eventually('those', () => received.length >= 120);
  assertExactlyOnceInOrder(received, rows.slice(0, 120));

  const rest = await (await orchestrator.replayDeadLetters({ topic, notes: 'the rest' })).result();
  assert.deepEqual([rest.state, rest.replayed, rest.resolved, rest.failed], ['done', 130, 130, 0]);
  await eventually('the rest', () => received.length >= rows.length);
  assertExactlyOnceInOrder(received, rows);
  const { rows: letters } = await client.query<{ id: string; key: string; by: string }>(
    'SELECT id, idempotency_key AS key, resolved_by AS by FROM core_deadlettermessage ORDER BY original_seq',
  );
  const told = new Map(received.map(({ headers }) => [headers.idempotency_key, headers]));
  for (const [index, { id, key }] of letters.entries()) {
    assert.equal(key, `original ${index}`);
    assert.equal(told.get(key)?.replayed_dead_letter, id);
    assert.equal(told.get(key)?.event_type, 'mended');
  }
  assert.deepEqual(new Set(letters.slice(0, 120).map(({ by }) => by)), new Set(['me']));
  assert.equal(await unresolved(world), 0);
});

test('a replay cancelled and started again, and its worker killed: each letter is sent once', async () => {
  await using world = await setUp();
  const { client, namespace, received, topic } = world;
  const rows = await deadLetters(world, 10, 40);
  const first = await namespace.orchestrator.replayDeadLetters({ topic });
  await eventually('a part', () => received.length > 0);
  await first.cancel();
  await assert.rejects(first.result());
  const left = await unresolved(world);
  assert.ok(left > 0, 'it was cancelled in the middle');

  const before = received.length;
  const second = await namespace.orchestrator.replayDeadLetters({ topic });
  await eventually('another part', () => received.length > before);
  await world.worker.end('SIGKILL');
  assert.ok((await unresolved(world)) > 0, 'it was killed in the middle');
  await world.start();
  const { state, resolved, failed } = await second.result();
  assert.deepEqual({ state, failed }, { state: 'done', failed: 0 });
  // The first one's activity learns of the cancel a moment later, and may have resolved its letters by then.
  assert.ok(resolved > 0 && resolved <= left, `${resolved} of ${left}`);
  await eventually('all', () => received.length >= rows.length);
  assertExactlyOnceInOrder(received, rows);
  assert.equal(await unresolved(world), 0);
  const { rows: replays } = await client.query(
    `SELECT FROM core_outboxmessage WHERE headers ? 'replayed_dead_letter'`,
  );
  assert.equal(replays.length, rows.length);
});
