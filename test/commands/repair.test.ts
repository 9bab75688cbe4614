import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { suite, test } from 'node:test';
import pg from 'pg';
import { type Deployment, readDeployment } from '../../src/database/deployment.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { beginAnew, NO_ROWS } from '../../src/database/outboxRepair.ts';
import { outboxGroup } from '../../src/kafka/outboxMarks.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type Received, readTopics, testKafka, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows, type Row } from '../support/outbox.ts';
import { runOutboxCommand } from '../support/outboxCommand.ts';
import { openPublisher, startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

type Database = TestDatabase & { deployment: Deployment };

const mend = (database: { url: string }, ...choice: string[]) =>
  runOutboxCommand({ SA01_DATABASE_URL: database.url }, 'repair', '0', ...choice);

/** As when they have expired: the shard's mark is gone. */
async function deleteOffsets({ deployment }: Database): Promise<void> {
  const admin = testKafka().admin();
  await admin.connect();
  await admin.deleteGroups([outboxGroup(deployment.id, 0)]);
  await admin.disconnect();
}

/** A relay that opens a batch and is killed right before or right after it has sent it. */
async function dieWithOpenBatch(database: Database, moment: 'before-send' | 'after-send'): Promise<void> {
  const child = spawn(process.execPath, ['test/support/dyingRelay.ts', moment], {
    env: {
      ...process.env,
      DYING_RELAY: JSON.stringify({ url: database.url, deployment: database.deployment }),
    },
    stdio: 'inherit',
  });
  await once(child, 'exit');
}

/** Runs a relay until `received` holds all of `rows`, and a row behind them in each partition tells that no more come. */
async function deliver(database: Database, topic: string, received: Received[]): Promise<Row[]> {
  await using _relay = startRelay(database, 0);
  const name = randomUUID();
  const last = Array.from({ length: 40 }, (_, n) => ({ topic, key: `${name}-${n}`, payload: { last: n } }));
  await insertRows(database.client, last);
  await eventually('the last rows', () =>
    last.every(({ key }) => received.some((record) => record.key === key)),
  );
  return last;
}

async function assertStopped(database: Database): Promise<void> {
  await using relay = startRelay(database, 0);
  await assert.rejects(relay.done, { code: 'shard_stopped' });
}

async function setUp() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const topic = uniqueTopic();
  const { received } = stack.use(await readTopics([topic]));
  const rows = numberedRows({ topics: [topic], keys: 5, perKey: 20 });
  return { stack, database, topic, received, rows, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

suite('a shard whose offsets Kafka has lost, with a batch open', () => {
  for (const [moment, choice, times] of [
    ['after-send', '--compare', 1],
    ['before-send', '--compare', 1],
    ['after-send', '--mark-delivered', 1],
    ['after-send', '--resend', 2],
  ] as const) {
    test(`${moment}, mended by ${choice}: consumers see the batch ${times} times`, async () => {
      await using scene = await setUp();
      const { database, topic, received, rows } = scene;
      // Something was delivered before, in batches that nobody doubts.
      const first = await deliver(database, topic, received);
      await insertRows(database.client, rows);
      await dieWithOpenBatch(database, moment);
      await deleteOffsets(database);
      await assertStopped(database);

      const { code, stdout, stderr } = await mend(database, choice);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /Kafka knows no batch at all/);
      assert.match(stdout, /both sides agree on batch 1 \(.+\), which is empty/);
      assert.match(stderr, /"msg":"shard repaired"/);
      const last = await deliver(database, topic, received);
      const batch = Array.from({ length: times }, () => rows).flat();
      assertExactlyOnceInOrder(received.slice(), [...first, ...batch, ...last]);
      const { rows: journals } = await database.client.query(
        'SELECT delivered_total::int AS delivered FROM orchestrator.outbox_journal',
      );
      assert.deepEqual(journals, [{ delivered: first.length + rows.length + last.length }]);
    });
  }
});

/** The database as it is now, under another name: what a restore of this moment's copy brings. */
async function copyOf(database: Database): Promise<string> {
  const server = testStack().env().SA01_DATABASE_URL!;
  const name = new URL(database.url).pathname.slice(1);
  const client = new pg.Client({ connectionString: server });
  await client.connect();
  await client.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '${name}'`);
  await client.query(`CREATE DATABASE ${name}_copy TEMPLATE ${name}`);
  await client.end();
  return Object.assign(new URL(database.url), { pathname: `/${name}_copy` }).href;
}

async function dropCopy(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: testStack().env().SA01_DATABASE_URL! });
  await client.connect();
  await client.query(`DROP DATABASE ${new URL(url).pathname.slice(1)} WITH (FORCE)`);
  await client.end();
}

suite('Postgres restored from an older copy', () => {
  /** Some rows are delivered before the copy, some that it holds as pending and some that it does not know after it. */
  async function restored() {
    const scene = await setUp();
    const { stack, database, topic, received, rows } = scene;
    const first = await deliver(database, topic, received);
    await insertRows(database.client, rows);
    const url = await copyOf(database);
    stack.defer(() => dropCopy(url));
    const copiedAt = new Date();
    const original = { ...database, client: await database.connect() };
    const later = await deliver(original, topic, received);
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    stack.defer(() => client.end());
    const copy: Database = { ...database, url, client };
    await insertRows(client, [{ topic, key: 'key-0', payload: 'new' }]);
    return { ...scene, copy, copiedAt, sent: [...first, ...rows, ...later] };
  }

  for (const choice of ['--compare', '--mark-delivered'] as const) {
    test(`is mended by ${choice}: nothing twice, and what is new is sent`, async () => {
      await using scene = await restored();
      const { copy, copiedAt, topic, received, sent } = scene;
      await assertStopped(copy);
      if (choice === '--mark-delivered') {
        const { code, stderr } = await mend(copy, choice);
        assert.match(stderr, /^command_refused: .* name the time of the older copy by --before/);
        assert.equal(code, 1);
        await assertStopped(copy);
      }
      const before = choice === '--compare' ? [] : ['--before', copiedAt.toISOString()];
      const { code, stdout, stderr } = await mend(copy, choice, ...before);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /100 rows count as delivered now/);
      assert.deepEqual(await countByStatus(copy.client), { published: 140, pending: 1 });
      const last = await deliver(copy, topic, received);
      assertExactlyOnceInOrder(received, [...sent, { topic, key: 'key-0', payload: 'new' }, ...last]);
      // The database from before the repair, should it still be there, does not fit any more.
      await assertStopped({ ...copy, url: scene.database.url });
    });
  }

  test('is mended by --resend: what was delivered after the copy comes twice', async () => {
    await using scene = await restored();
    const { copy, topic, received, sent, rows } = scene;
    assert.equal((await mend(copy, '--resend')).code, 0);
    const last = await deliver(copy, topic, received);
    assert.equal(received.length, sent.length + rows.length + 1 + last.length);
  });
});

test('Kafka set back: rows that were put back to pending are compared, and only what is lost is sent', async () => {
  await using scene = await setUp();
  const { database, topic, received, rows } = scene;
  await insertRows(database.client, rows);
  const first = await deliver(database, topic, received);
  // A journal that is three batches ahead of the mark, and rows of which Kafka never heard.
  const lost = numberedRows({ topics: [topic], keys: 2, perKey: 5 }).map((row) => ({
    ...row,
    key: `lost-${row.key}`,
  }));
  await insertRows(database.client, lost);
  await database.client.query(
    `UPDATE orchestrator.outbox_journal SET settled_number = settled_number + 3, settled_batch = gen_random_uuid()`,
  );
  await assertStopped(database);
  await database.client.query(`UPDATE core_outboxmessage SET status = 'pending', published_at = NULL`);
  const { code, stdout } = await mend(database, '--compare');
  assert.equal(code, 0);
  assert.match(stdout, /140 rows count as delivered now/);
  const last = await deliver(database, topic, received);
  assertExactlyOnceInOrder(received, [...rows, ...first, ...lost, ...last]);
});

test('a repair that was killed behind its commit is finished by the same again', async () => {
  await using scene = await setUp();
  const { database, topic, received, rows } = scene;
  const first = await deliver(database, topic, received);
  await insertRows(database.client, rows);
  await dieWithOpenBatch(database, 'after-send');
  await deleteOffsets(database);
  const client = await database.connect();
  const journal = await OutboxJournal.takeOver(client, 0, database.deployment, 'test');
  const publisher = openPublisher(database.deployment.id, 0);
  assert.equal(await publisher.initialise(), undefined);
  const { open } = await journal.read();
  const shard = { shard: 0, shards: 1, epoch: journal.epoch };
  await beginAnew(client, shard, { number: 0, batchId: null }, { ...NO_ROWS, seqs: open!.seqs });
  await publisher.close();
  assert.equal((await mend(database, '--mark-delivered')).code, 0);
  const { code, stdout, stderr } = await mend(database, '--compare');
  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /^command_refused: shard 0 is not stopped: .* --name resume\n$/);
  const last = await deliver(database, topic, received);
  assertExactlyOnceInOrder(received, [...first, ...rows, ...last]);
});

test('a relay that took the shard over meanwhile keeps a repair from its commit', async () => {
  await using database = await outboxDatabase();
  const [one, other] = [await database.connect(), await database.connect()];
  const journal = await OutboxJournal.takeOver(one, 0, database.deployment, 'repair');
  await OutboxJournal.takeOver(other, 0, database.deployment, 'relay');
  const shard = { shard: 0, shards: 1, epoch: journal.epoch };
  await assert.rejects(beginAnew(one, shard, { number: 5, batchId: null }, NO_ROWS), {
    code: 'relay_fenced',
  });
});

test('the paused relay of a mended shard goes on by itself', async () => {
  await using scene = await setUp();
  const { database, topic, received, rows } = scene;
  await using namespace = await temporalNamespace();
  const env = { SA01_DATABASE_URL: database.url, TEMPORAL_NAMESPACE: namespace.name };
  const first = await deliver(database, topic, received);
  await insertRows(database.client, rows);
  await dieWithOpenBatch(database, 'after-send');
  await deleteOffsets(database);
  await using worker = await startWorker(env);
  await worker.ready();
  const relay = namespace.orchestrator.outboxRelay(0);
  const stoppedStatus = await eventually('the stop', async () => {
    const status = await relay.status();
    return status.state === 'paused' ? status : undefined;
  });
  assert.match(stoppedStatus.last_error ?? '', /Kafka knows no batch at all/);
  const { code, stdout } = await runOutboxCommand(env, 'repair', '0', '--compare');
  assert.match(stdout, /shard 0: its relay goes on/);
  assert.equal(code, 0);
  await eventually('the relay', async () => (await relay.status()).state === 'idle');
  const more = numberedRows({ topics: [topic], keys: 40, perKey: 1 }).map((row) => ({
    ...row,
    key: `more-${row.key}`,
  }));
  await insertRows(database.client, more);
  await eventually('the rows', () => received.length >= first.length + rows.length + more.length);
  assertExactlyOnceInOrder(received, [...first, ...rows, ...more]);
  assert.deepEqual(await readDeployment(await database.connect()), database.deployment);
});
