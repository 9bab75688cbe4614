import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { ownDatabase } from '../../src/backupSettings.ts';
import { scratchNames } from '../../src/database/restoreDrills.ts';
import { BACKUP_SCHEDULE_ID, DRILL_SCHEDULE_ID } from '../../src/schedules.ts';
import { backupWorld, filesIn, fill } from '../support/backupWorld.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { restoreCommand } from '../support/restoreCommand.ts';
import { startWorker } from '../support/worker.ts';

test('a worker killed with -9 in the middle: another one makes the backup, and nothing else is left', async () => {
  await using world = await backupWorld();
  const { database, directory, namespace, source } = world;
  await using first = await startWorker(world.env);
  await first.ready();
  await fill(database.client, 20_000);
  // pg_dump waits for this lock, so the kill is sure to be in the middle.
  const holder = await database.connect();
  await holder.query('BEGIN; LOCK notes IN ACCESS EXCLUSIVE MODE');
  const job = await namespace.orchestrator.startBackup({ type: 'database', source }, 'killed');
  await eventually('the first try', async () => {
    const { rows } = await database.client.query(
      'SELECT attempts FROM orchestrator.backup WHERE source = $1',
      [source],
    );
    return rows[0]?.attempts === 1;
  });
  await first.end('SIGKILL');
  // As if it had been killed a moment later.
  const { rows } = await database.client.query('SELECT id FROM orchestrator.backup WHERE source = $1', [
    source,
  ]);
  const partial = path.join(directory, 'database', source, `${rows[0].id}-1`);
  await mkdir(partial, { recursive: true });
  await writeFile(path.join(partial, 'data'), 'half of it');
  await using second = await startWorker(world.env);
  await second.ready();
  await holder.query('ROLLBACK');
  const { state, manifest, attempts } = await job.result();
  assert.deepEqual([state, attempts], ['verified', 2]);
  const place = `database/${source}/${manifest!.id}-2`;
  assert.deepEqual(
    await filesIn(directory),
    ['data', 'globals', 'manifest.json'].map((file) => `${place}/${file}`),
  );
});

test('a worker killed with -9 in a drill: another one drills, and no scratch database is left', async () => {
  await using world = await backupWorld();
  const { database, namespace, source } = world;
  // So the kill is sure to be between the database's making and its dropping.
  const checks = JSON.stringify({ hangs: 'SELECT true FROM pg_sleep(600)' });
  await using first = await startWorker({ ...world.env, SA01_BACKUP_DRILL_CHECKS: checks });
  await first.ready();
  await fill(database.client, 1_000);
  await (await namespace.orchestrator.startBackup({ type: 'database', source })).result();
  const drill = await namespace.orchestrator.startRestoreDrill({ source });
  const scratch = await eventually('the check', async () => {
    const { rows } = await database.client.query(
      `SELECT datname FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname LIKE 'restore\\_drill\\_%'`,
    );
    return rows[0]?.datname as string | undefined;
  });
  await first.end('SIGKILL');
  await using second = await startWorker(world.env);
  await second.ready();
  assert.equal((await drill.result()).state, 'passed');
  const own = scratch.slice(-8);
  const left = (await scratchNames(database.client)).filter((name) => name.endsWith(own));
  assert.deepEqual(left, []);
});

test('cancelled, it leaves no file and no pg_dump; a task outside the allowed places is refused', async () => {
  await using world = await backupWorld();
  const { database, directory, namespace, source } = world;
  await using worker = await startWorker(world.env);
  await worker.ready();
  await fill(database.client, 1_000);
  const holder = await database.connect();
  await holder.query('BEGIN; LOCK notes IN ACCESS EXCLUSIVE MODE');
  const job = await namespace.orchestrator.startBackup({ type: 'database', source }, 'cancelled');
  const waiting = async () => {
    const { rows } = await database.client.query(
      `SELECT count(*)::int AS waiting FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LOCK TABLE%'`,
    );
    return rows[0].waiting as number;
  };
  await eventually('pg_dump to wait', async () => (await waiting()) > 0);
  await job.cancel();
  await assert.rejects(job.result());
  assert.equal((await job.status()).state, 'cancelled');
  assert.deepEqual(await filesIn(directory), []);
  await eventually('no pg_dump', async () => (await waiting()) === 0);
  await holder.query('ROLLBACK');
  for (const task of [
    { type: 'database', source: '--file=/etc/x' },
    { type: 'database', source: 'somebody_elses' },
    { type: 'files', source: '/etc' },
    { type: 'database', source, destination: 'file:///etc/backups' },
  ] as const) {
    const refused = await namespace.orchestrator.startBackup(task);
    await assert.rejects(refused.result());
    const { state, last_error } = await refused.status();
    assert.equal(state, 'failed');
    assert.match(last_error!, /^backup_refused: /);
  }
});

test('the Schedules are made, and the one of the drill finds what the other has backed up', async () => {
  await using world = await backupWorld();
  const { client } = world.namespace;
  await using worker = await startWorker(world.env);
  await worker.ready();
  await fill(world.database.client, 100);
  for (const [id, type] of [
    [BACKUP_SCHEDULE_ID, 'backup'],
    [DRILL_SCHEDULE_ID, 'restoreDrill'],
  ] as const) {
    const schedule = client.schedule.getHandle(id);
    await eventually('the Schedule', () => schedule.describe());
    await schedule.trigger();
    const taken = await eventually('its workflow', async () => {
      const [action] = (await schedule.describe()).info.recentActions;
      return action?.action.workflow;
    });
    const result = await client.workflow.getHandle(taken.workflowId).result();
    assert.match(result.state, /^(verified|passed)$/, type);
  }
});

test('by hand: list, restore, no overwriting unless asked for, and the catalogue anew from manifests', async () => {
  await using world = await backupWorld();
  const { database, namespace, source, env } = world;
  await using target = await emptyDatabase();
  const into = ownDatabase({ databaseUrl: target.url });
  let id = '';
  {
    await using worker = await startWorker(env);
    await worker.ready();
    await fill(database.client, 500);
    const job = await namespace.orchestrator.startBackup({ type: 'database', source }, 'by-hand');
    id = (await job.result()).id!;
  }
  assert.match(
    (await restoreCommand(env, 'list')).said,
    new RegExp(`^${id}  database  ${source}  .*MB\n1 backups at `),
  );
  assert.match((await restoreCommand(env, id, '--into', into)).said, /is restored/);
  const { rows } = await target.client.query('SELECT count(*)::int AS notes FROM notes');
  assert.equal(rows[0].notes, 500);
  await target.client.query('DELETE FROM notes');
  const refused = await restoreCommand(env, id, '--into', into);
  assert.deepEqual(
    [refused.code, /backup_refused: .*not empty/.test(refused.complained)],
    [1, true],
    refused.complained,
  );
  assert.equal((await restoreCommand(env, id, '--into', into, '--overwrite')).code, 0);
  assert.equal((await target.client.query('SELECT FROM notes')).rowCount, 500);
  assert.equal((await restoreCommand(env, 'nonsense', '--into', into)).code, 1);
  assert.equal((await restoreCommand(env, id)).code, 2);

  await database.client.query('DELETE FROM orchestrator.backup');
  assert.match((await restoreCommand(env, 'catalogue')).said, /^1 backups of .* are in the catalogue/);
  assert.equal((await restoreCommand(env, 'hold', id, 'an audit')).code, 0);
  assert.match(
    (await restoreCommand(env, 'retention')).said,
    new RegExp(`keeps +${id}  the last good one, on hold: an audit`),
  );
  assert.equal((await restoreCommand(env, 'release', id)).code, 0);
});
