import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { settleDeployment } from '../../src/database/deployment.ts';
import { migrate } from '../../src/database/migrate.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import { emptyDatabase, outboxDatabase, type TestDatabase } from '../support/database.ts';
import { dumpSchema } from '../support/schemaDump.ts';

const MIGRATIONS = [
  '0001_platform_tables',
  '0002_outbox_relay',
  '0003_dead_letters',
  '0004_purge',
  '0005_health',
  '0006_idempotency',
  '0007_memory',
  '0008_uploads',
  '0009_backups',
];

const recorded = async ({ client }: TestDatabase): Promise<string[]> => {
  const { rows } = await client.query<{ name: string }>(
    'SELECT name FROM orchestrator.migration ORDER BY id',
  );
  return rows.map(({ name }) => name);
};

/** What each of `count` connections at once gets from `work`. */
const atOnce = <T>(count: number, work: (index: number) => Promise<T>): Promise<PromiseSettledResult<T>[]> =>
  Promise.allSettled(Array.from({ length: count }, (_, index) => work(index)));

const mismatch = (wanted: number, was: number) => (error: unknown) => {
  assert.ok(error instanceof OrchestratorError);
  assert.equal(error.code, 'shard_count_mismatch');
  assert.equal(error.retryable, false);
  assert.equal(
    error.message,
    `SA01_OUTBOX_SHARDS is ${wanted}, but this database was set up with ${was}: unset it, or change the number by \`npm run outbox -- shards ${wanted}\``,
  );
  return true;
};

test('The migrations make the schema that is committed as schema.sql', async () => {
  await using database = await outboxDatabase(2);
  const committed = readFileSync(path.join(import.meta.dirname, 'schema.sql'), 'utf8');
  const made = await dumpSchema(database.client);
  assert.equal(
    made,
    committed,
    `The schema is not the committed one. If that was meant: node scripts/run.mjs scripts/dumpSchema.ts\n${firstDifference(made, committed)}`,
  );
});

function firstDifference(made: string, committed: string): string {
  const expected = committed.split('\n');
  const lines = made.split('\n');
  const at = lines.findIndex((line, index) => line !== expected[index]);
  return at === -1
    ? 'The committed one goes on where the other ends.'
    : `line ${at + 1} is     ${lines[at]}\ncommitted is  ${expected[at] ?? 'nothing'}`;
}

test('Migrating a second time does nothing', async () => {
  await using database = await emptyDatabase();
  assert.deepEqual(await migrate(database.url), MIGRATIONS);
  const before = await dumpSchema(database.client);
  assert.deepEqual(await migrate(database.url), []);
  assert.equal(await dumpSchema(database.client), before);
});

test('Of eight that migrate at once, one does and the others find it done', async () => {
  await using database = await emptyDatabase();
  const outcomes = await atOnce(8, () => migrate(database.url));
  const applied = outcomes.map((outcome) =>
    outcome.status === 'fulfilled' ? outcome.value : outcome.reason,
  );
  assert.deepEqual(applied.flat(), MIGRATIONS);
  assert.deepEqual(await recorded(database), MIGRATIONS);
});

test('A migration that fails leaves nothing half done, and runs whole when it is tried again', async () => {
  await using database = await emptyDatabase();
  const { client } = database;
  // In the way of the second migration, which has changed the outbox by then.
  await client.query('CREATE SCHEMA orchestrator; CREATE TABLE orchestrator.deployment ()');
  await assert.rejects(migrate(database.url), /relation "deployment" already exists/);
  assert.deepEqual(await recorded(database), MIGRATIONS.slice(0, 1));
  const dump = await dumpSchema(client);
  assert.ok(!dump.includes('relay_seq') && !dump.includes('outbox_journal'), dump);
  await client.query('DROP TABLE orchestrator.deployment');
  assert.deepEqual(await migrate(database.url), MIGRATIONS.slice(1));
});

test('Workers that start at once agree on the deployment', async () => {
  await using database = await emptyDatabase();
  await migrate(database.url);
  const outcomes = await atOnce(8, async () => settleDeployment(await database.connect(), 3));
  const { rows } = await database.client.query('SELECT id FROM orchestrator.deployment');
  const settled = { status: 'fulfilled', value: { id: rows[0].id, outboxShards: 3 } };
  assert.deepEqual(outcomes, Array(8).fill(settled));
  const journals = await database.client.query(
    'SELECT shard FROM orchestrator.outbox_journal ORDER BY shard',
  );
  assert.deepEqual(
    journals.rows.map(({ shard }) => shard),
    [0, 1, 2],
  );
});

test('Of workers that want different numbers of shards at once, the first one wins', async () => {
  await using database = await emptyDatabase();
  await migrate(database.url);
  const wanted = (index: number) => (index % 2) + 1;
  const outcomes = await atOnce(8, async (index) =>
    settleDeployment(await database.connect(), wanted(index)),
  );
  const { rows } = await database.client.query('SELECT outbox_shards FROM orchestrator.deployment');
  const was = rows[0].outbox_shards;
  for (const [index, outcome] of outcomes.entries()) {
    if (outcome.status === 'fulfilled') assert.equal(outcome.value.outboxShards, was);
    else mismatch(wanted(index), was)(outcome.reason);
    assert.equal(outcome.status === 'fulfilled', wanted(index) === was);
  }
});

test('A worker that is configured for another number of shards is refused, with both numbers', async () => {
  await using database = await outboxDatabase(2);
  await assert.rejects(settleDeployment(database.client, 4), mismatch(4, 2));
  assert.deepEqual(await settleDeployment(database.client, 2), database.deployment);
});

test('A number that is no number of shards is refused and nothing is recorded', async () => {
  await using database = await emptyDatabase();
  await migrate(database.url);
  for (const shards of [0, -1, 1.5, Number.NaN]) {
    await assert.rejects(settleDeployment(database.client, shards));
  }
  assert.equal((await settleDeployment(database.client, 1)).outboxShards, 1);
});
