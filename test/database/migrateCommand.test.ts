import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { emptyDatabase } from '../support/database.ts';

const migrateCommand = (databaseUrl: string) =>
  promisify(execFile)(process.execPath, ['src/migrate.ts'], {
    env: { ...process.env, SA01_DATABASE_URL: databaseUrl, SA01_OUTBOX_SHARDS: '3' },
  });

test('npm run migrate sets an empty database up, and says that nothing is left to do the second time', async () => {
  await using database = await emptyDatabase();
  const first = await migrateCommand(database.url);
  assert.match(first.stdout, /0001_platform_tables.*0002_outbox_relay.*database migrated/);
  const { rows } = await database.client.query('SELECT outbox_shards FROM orchestrator.deployment');
  assert.equal(rows[0].outbox_shards, 3);
  const second = await migrateCommand(database.url);
  assert.match(second.stdout, /database is up to date/);
});

test('a role without the right to migrate is told so in one sentence', async () => {
  await using database = await emptyDatabase();
  const role = `weak_${database.url.slice(-8)}`;
  await database.client.query(`CREATE ROLE ${role} LOGIN PASSWORD 'weak'`);
  try {
    const url = Object.assign(new URL(database.url), { username: role, password: 'weak' }).href;
    await assert.rejects(migrateCommand(url), (error: { code: number; stderr: string }) => {
      assert.equal(error.code, 1);
      assert.match(error.stderr, /^postgres_refused: .*permission denied for database/);
      return true;
    });
  } finally {
    await database.client.query(`DROP ROLE ${role}`);
  }
});
