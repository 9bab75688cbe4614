import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { Random } from '../faults/random.ts';
import { type CommittedRow, describeVerdict, isClean, judge } from '../faults/verdict.ts';
import { write } from '../faults/writers.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { insertRows } from '../support/outbox.ts';
import { OutboxCommand, runOutboxCommand } from '../support/outboxCommand.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

const WRITERS = 3;
const PATIENCE = { withinMs: 120_000 };

/** A database, two workers on it that were told no number of shards, and writers that do not stop. */
async function setUp() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const topic = uniqueTopic();
  const { received } = stack.use(await readTopics([topic]));
  const env = { SA01_DATABASE_URL: database.url, TEMPORAL_NAMESPACE: namespace.name };
  const start = async () => stack.use(await startWorker(env));
  const workers: WorkerProcess[] = [await start(), await start()];
  stack.defer(async () => {
    for (const worker of workers) await worker.end('SIGKILL');
  });
  await Promise.all(workers.map((worker) => worker.ready()));
  const random = new Random(4);
  const stop = new AbortController();
  stack.defer(() => stop.abort());
  const until = stop.signal;
  const writing = Array.from({ length: WRITERS }, (_, index) =>
    write({ url: database.url, topic, name: `writer-${index}`, random: new Random(index), until }),
  );
  const endWriters = async () => {
    stop.abort();
    await Promise.all(writing);
  };
  return {
    ...{ database, namespace, topic, received, env, workers, start, random, endWriters },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

type Scene = Awaited<ReturnType<typeof setUp>>;

/** A run that is killed a moment after it has said so. */
async function killedRun({ env, random }: Scene, shards: number, sentence: RegExp): Promise<void> {
  await using command = new OutboxCommand(env, ['shards', String(shards)]);
  await command.said(sentence);
  await delay(random.between(0, 300));
}

async function change({ env }: Scene, shards: number): Promise<void> {
  const { code, stdout, stderr } = await runOutboxCommand(env, 'shards', String(shards));
  assert.equal(code, 0, stderr);
  assert.match(stdout, new RegExp(`^there (are|were) ${shards} shards`, 'm'));
}

/** All shards deliver: a row for each of many keys arrives. */
async function probe({ database, topic, received }: Scene, name: string): Promise<void> {
  const rows = Array.from({ length: 60 }, (_, n) => ({ topic, key: `${name}-${n}` }));
  await insertRows(database.client, rows);
  await eventually(
    `rows behind the change to ${name}`,
    () => rows.every(({ key }) => received.some((record) => record.key === key)),
    PATIENCE,
  );
}

test('2, 4, 3 and 1 shards under traffic, with kills of the command and of a worker: each row once, in order', async () => {
  await using scene = await setUp();
  const { database, namespace, received, workers } = scene;
  await probe(scene, '2');

  await killedRun(scene, 4, /closing 2 old shards/);
  await probe(scene, '2 or 4');
  await change(scene, 4);
  await probe(scene, '4');
  assert.ok(await isGauge(workers[1]!, 'outbox_messages_pending{shard="3"}', /\d+/));

  const killed = workers[0]!.end('SIGKILL');
  await change(scene, 3);
  await killed;
  workers[0] = await scene.start();
  await probe(scene, '3');

  await killedRun(scene, 1, /^done/m);
  await probe(scene, '1');
  await change(scene, 1);
  await scene.endWriters();
  await probe(scene, 'last');

  const { rows } = await database.client.query<CommittedRow>(
    'SELECT id, topic, partition_key AS key, payload FROM core_outboxmessage ORDER BY relay_seq',
  );
  await eventually('all rows', () => received.length >= rows.length, PATIENCE);
  const verdict = judge(received, rows);
  assert.ok(isClean(verdict), describeVerdict(verdict));
  const books = await database.client.query(
    `SELECT outbox_shards AS shards, sum(delivered_total)::int AS delivered, count(open_batch)::int AS open,
       (SELECT array_agg(indexname::text) FROM pg_indexes WHERE indexname LIKE 'orchestrator_outbox_pending_%') AS indexes
     FROM orchestrator.deployment, orchestrator.outbox_journal GROUP BY outbox_shards`,
  );
  assert.deepEqual(books.rows, [
    { shards: 1, delivered: rows.length, open: 0, indexes: ['orchestrator_outbox_pending_1'] },
  ]);
  for (const worker of workers) assert.ok(!worker.ended, worker.output.slice(-2_000));
  await eventually('the status to tell the same', async () => {
    const { state, delivered_total } = await namespace.orchestrator.outboxRelay(0).status();
    return state === 'idle' && delivered_total === rows.length;
  });
  for (const shard of [1, 2, 3])
    await eventually(`the relay of shard ${shard} to end`, async () => {
      const { status } = await namespace.client.workflow.getHandle(`outbox-relay-${shard}`).describe();
      return status.name !== 'RUNNING';
    });
  assert.ok(await isGauge(workers[1]!, 'outbox_messages_pending{shard="3"}', /0/), 'no last value stays');
});

async function isGauge({ metricsAddress }: WorkerProcess, name: string, value: RegExp): Promise<boolean> {
  const metrics = await (await fetch(`http://${metricsAddress}/metrics`)).text();
  const line = metrics.split('\n').find((found) => found.startsWith(`${name} `));
  return line !== undefined && new RegExp(`^${value.source}$`).test(line.slice(name.length + 1));
}

test('a worker that was told the old number ends with code 2 and says how to go on', async () => {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const env = { SA01_DATABASE_URL: database.url, TEMPORAL_NAMESPACE: namespace.name };
  await using worker = await startWorker({ ...env, SA01_OUTBOX_SHARDS: '2' });
  await worker.ready();
  assert.equal((await runOutboxCommand(env, 'shards', '3')).code, 0);
  await eventually('its end', () => worker.ended);
  assert.equal(await worker.end(), 2);
  assert.match(worker.output, /SA01_OUTBOX_SHARDS is 2, but this database was set up with 3: unset it, or/);
});
