import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { suite, test } from 'node:test';
import { type Deployment, holdDeployment, readDeployment } from '../../src/database/deployment.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { lockChange } from '../../src/database/shardCount.ts';
import type { OutboxPublisher } from '../../src/kafka/outboxPublisher.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type Received, readTopics, uniqueTopic } from '../support/kafka.ts';
import { insertRows, type Row } from '../support/outbox.ts';
import { runOutboxCommand } from '../support/outboxCommand.ts';
import { openPublisher, startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';

type Database = TestDatabase & { deployment: Deployment };

const change = (database: { url: string }, shards: number) =>
  runOutboxCommand({ SA01_DATABASE_URL: database.url }, 'shards', String(shards));

async function pendingIndexes({ client }: TestDatabase): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT indexname AS name FROM pg_indexes WHERE indexname LIKE 'orchestrator_outbox_pending_%' ORDER BY 1`,
  );
  return rows.map(({ name }) => name);
}

async function setUp(shards = 1) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase(shards));
  const topic = uniqueTopic();
  const { received } = stack.use(await readTopics([topic]));
  const rows = numberedRows({ topics: [topic], keys: 20, perKey: 10 });
  return { stack, database, topic, received, rows, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Relays of all shards that there are now, until a row in each partition tells that nothing else is on its way. */
async function deliver(database: Database, topic: string, received: Received[]): Promise<Row[]> {
  await using stack = new AsyncDisposableStack();
  const deployment = (await readDeployment(database.client))!;
  for (let shard = 0; shard < deployment.outboxShards; shard += 1)
    stack.use(startRelay({ ...database, deployment }, shard));
  const last = Array.from({ length: 40 }, (_, n) => ({ topic, key: `last-${n}`, payload: { last: n } }));
  await insertRows(database.client, last);
  await eventually('the last rows', () =>
    last.every(({ key }) => received.some((record) => record.key === key)),
  );
  return last;
}

async function deliveredTotal({ client }: TestDatabase): Promise<number> {
  const { rows } = await client.query(
    'SELECT sum(delivered_total)::int AS delivered FROM orchestrator.outbox_journal',
  );
  return rows[0].delivered;
}

suite('a batch that a killed relay left open', () => {
  for (const moment of ['before-send', 'after-send'] as const) {
    test(`${moment} is delivered once by the new shards or by the old one`, async () => {
      await using scene = await setUp();
      const { database, topic, received, rows } = scene;
      await insertRows(database.client, rows);
      const child = spawn(process.execPath, ['test/support/dyingRelay.ts', moment], {
        env: {
          ...process.env,
          DYING_RELAY: JSON.stringify({ url: database.url, deployment: database.deployment }),
        },
        stdio: 'inherit',
      });
      await once(child, 'exit');
      const { rows: open } = await database.client.query(
        'SELECT FROM orchestrator.outbox_journal WHERE open_batch IS NOT NULL',
      );
      assert.equal(open.length, 1, 'it left its batch open');
      const { code, stdout, stderr } = await change(database, 3);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /there are 3 shards now, before 1\n$/);
      assert.deepEqual(await pendingIndexes(database), ['orchestrator_outbox_pending_3']);
      const last = await deliver(database, topic, received);
      assertExactlyOnceInOrder(received, [...rows, ...last]);
      assert.equal(await deliveredTotal(database), received.length);
    });
  }
});

suite('a relay of an old shard that slept while the number was changed', () => {
  for (const place of ['initialise', 'before publish', 'after publish']) {
    test(`at ${place}: is refused, and nothing comes twice`, async () => {
      await using scene = await setUp();
      const { database, topic, received, rows } = scene;
      const [asleep, wake] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      const sleep = (at: string) => {
        if (at !== place) return Promise.resolve();
        asleep.resolve();
        return wake.promise;
      };
      const sleeping = (publisher: OutboxPublisher): OutboxPublisher => ({
        initialise: () => sleep('initialise').then(() => publisher.initialise()),
        publish: async (mark, records) => {
          // The first mark of a new shard is no batch.
          if (records.length === 0) return publisher.publish(mark, records);
          await sleep('before publish');
          await publisher.publish(mark, records);
          await sleep('after publish');
        },
        close: () => publisher.close(),
      });
      await using zombie = startRelay(database, 0, {
        openPublisher: () => sleeping(openPublisher(database.deployment.id, 0)),
      });
      await insertRows(database.client, rows);
      await asleep.promise;
      assert.equal((await change(database, 2)).code, 0);
      wake.resolve();
      await assert.rejects(zombie.done, { code: 'relay_fenced' });
      const last = await deliver(database, topic, received);
      assertExactlyOnceInOrder(received, [...rows, ...last]);
    });
  }
});

test('a takeover waits while the number is being changed, and is refused only if it was', async () => {
  await using database = await outboxDatabase(2);
  const { client, deployment } = database;
  const takeOver = async () => OutboxJournal.takeOver(await database.connect(), 0, deployment, 'relay');
  // Within a transaction pg_stat_activity stays what it was.
  const observer = await database.connect();
  const waiting = () =>
    eventually('the takeover to wait', async () => {
      const { rows } = await observer.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return rows.length === 1;
    });
  await client.query('BEGIN');
  await holdDeployment(client, deployment);
  const first = takeOver();
  await waiting();
  await client.query('ROLLBACK');
  assert.equal((await first).epoch, '1');

  await client.query('BEGIN');
  await holdDeployment(client, deployment);
  const second = takeOver();
  await waiting();
  await client.query('UPDATE orchestrator.deployment SET id = gen_random_uuid()');
  await client.query('COMMIT');
  await assert.rejects(second, { code: 'deployment_changed', retryable: true });
  await assert.rejects(holdDeployment(client, deployment), { code: 'deployment_changed' });
});

test('a replaced relay leaves no flag that would wake it for ever', async () => {
  await using database = await outboxDatabase(2);
  const journal = await OutboxJournal.takeOver(await database.connect(), 1, database.deployment, 'zombie');
  assert.equal((await change(database, 1)).code, 0);
  await journal.setWaiting(true);
  const { rows } = await database.client.query('SELECT shard, waiting FROM orchestrator.outbox_waiting');
  assert.deepEqual(rows, [{ shard: 0, waiting: false }]);
});

test('with a stopped shard nothing is changed', async () => {
  await using database = await outboxDatabase(2);
  await database.client.query(
    'UPDATE orchestrator.outbox_journal SET settled_number = 7, settled_batch = gen_random_uuid() WHERE shard = 1',
  );
  const { code, stderr } = await change(database, 4);
  assert.match(
    stderr,
    /^shard_stopped: shard 1: Postgres knows batch 7 .* mend it first: npm run outbox -- repair 1\n$/,
  );
  assert.equal(code, 1);
  assert.deepEqual(await readDeployment(database.client), database.deployment);
  assert.deepEqual(await pendingIndexes(database), ['orchestrator_outbox_pending_2']);
});

test('what a killed run left is cleared away by the same run again, and by one with the old number', async () => {
  await using database = await outboxDatabase(2);
  const { client } = database;
  const leave = (shards: number) =>
    client.query(
      `CREATE INDEX orchestrator_outbox_pending_${shards} ON core_outboxmessage (relay_seq);
       UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orchestrator_outbox_pending_${shards}'::regclass`,
    );
  await leave(3);
  await leave(5);
  const same = await change(database, 2);
  assert.match(same.stdout, /there were 2 shards already\n$/);
  assert.deepEqual(await pendingIndexes(database), ['orchestrator_outbox_pending_2']);
  assert.deepEqual(await readDeployment(client), database.deployment);
  await leave(3);
  assert.equal((await change(database, 3)).code, 0);
  const { rows } = await client.query(
    `SELECT indisvalid AS valid, pg_get_indexdef(indexrelid) AS definition
     FROM pg_index WHERE indexrelid = 'orchestrator_outbox_pending_3'::regclass`,
  );
  assert.equal(rows[0].valid, true);
  assert.match(rows[0].definition, /% \(3\)::bigint/);
});

test('a copy of the database from before the change does not go on beside it', async () => {
  await using scene = await setUp();
  const { database, topic, received } = scene;
  await deliver(database, topic, received);
  const old = await OutboxJournal.takeOver(await database.connect(), 0, database.deployment, 'test');
  const { settled } = await old.read();
  assert.equal((await change(database, 2)).code, 0);
  // The books as they were in the copy.
  const { id } = database.deployment;
  await database.client.query(
    `DELETE FROM orchestrator.outbox_journal WHERE shard > 0;
     UPDATE orchestrator.deployment SET id = '${id}', outbox_shards = 1;
     UPDATE orchestrator.outbox_journal SET settled_number = ${settled.number}, settled_batch = '${settled.batchId}'`,
  );
  await using relay = startRelay(database, 0);
  await assert.rejects(Promise.race([relay.done, eventually('its stop', () => false)]), {
    code: 'shard_stopped',
  });
});

test('a second run beside the first is refused', async () => {
  await using database = await outboxDatabase();
  await lockChange(database.client);
  await assert.rejects(lockChange(await database.connect()), { code: 'command_refused' });
});
