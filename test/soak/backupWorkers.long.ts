import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type pg from 'pg';
import { ownDatabase } from '../../src/backupSettings.ts';
import { backupSequel, handOver, owners } from '../../src/consumers.ts';
import { openPool } from '../../src/database/postgres.ts';
import { BACKUP_SCHEDULE_ID, DRILL_SCHEDULE_ID } from '../../src/schedules.ts';
import { postgresClients } from '../../stack/postgresClients.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

/** A database, a namespace, a directory for backups, and the variables for workers on them. */
async function setUp() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const directory = await mkdtemp(path.join(tmpdir(), 'backups-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_BACKUP_DESTINATION: pathToFileURL(directory).href,
    SA01_PG_BIN_DIR: await postgresClients(),
  };
  const source = ownDatabase({ databaseUrl: database.url });
  return { database, namespace, directory, env, source, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

async function fill(client: pg.ClientBase, rows: number): Promise<void> {
  await client.query(
    'CREATE TABLE notes AS SELECT n, md5(n::text) AS note FROM generate_series(1, $1::int) AS n',
    [rows],
  );
}

/** The files below a directory, each with its path. */
const filesIn = async (directory: string): Promise<string[]> =>
  (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => path.relative(directory, path.join(parentPath, name)))
    .sort();

test('a task of Kafka, there twice, becomes one verified backup, and a drill restores it', async () => {
  await using world = await setUp();
  const { database, directory, namespace, source } = world;
  await using worker = await startWorker({ ...world.env, SA01_BACKUP_RETENTION: 'last=1,minimum=1' });
  await worker.ready();
  await fill(database.client, 20_000);
  const pool = openPool(database.url);
  const record = (offset: number, own: object) => ({
    topic: 'backup.tasks',
    partition: 0,
    offset: String(offset),
    timestamp: Date.now(),
    key: null,
    headers: {},
    value: Buffer.from(
      JSON.stringify({
        type: 'database',
        source,
        destination: null,
        metadata: {},
        queued_at: '2026-01-31T12:00:00',
        ...own,
      }),
    ),
  });
  const handle = handOver(
    pool,
    'backup.tasks',
    owners['backup.tasks']!,
    () => {},
    backupSequel(namespace.client, 'somaagent-orchestrator'),
  );
  await handle([record(0, {}), record(1, {}), record(2, { type: 'tape' }), record(3, { source: 'a\nb' })]);
  await handle([record(0, {})]);
  const key = `backup:database:${source}:1769860800`;
  const { state, attempts, manifest } = await namespace.orchestrator.backup(key).result();
  assert.deepEqual([state, attempts], ['verified', 1], worker.output);
  assert.equal(manifest!.content.rows!['public.notes'], 20_000);
  await handle([record(0, {})]);
  const place = `database/${source}/${manifest!.id}-1`;
  assert.deepEqual(
    await filesIn(directory),
    ['data', 'globals', 'manifest.json'].map((file) => `${place}/${file}`),
  );
  const letters = await database.client.query('SELECT error_message FROM core_deadlettermessage ORDER BY 1');
  assert.deepEqual(
    letters.rows.map(({ error_message }) => /^\w+ must be/.exec(error_message)?.[0]),
    ['source must be', 'type must be'],
  );

  const drill = await namespace.orchestrator.startRestoreDrill();
  const { evidence, backup } = await drill.result();
  assert.deepEqual([backup, evidence!.differences], [manifest!.id, []]);
  assert.ok(evidence!.found >= 20_000);
  const { rows } = await database.client.query(
    'SELECT passed, b.state, b.restored_at = d.ended_at AS restored FROM orchestrator.restore_drill AS d JOIN orchestrator.backup AS b ON b.id = d.backup',
  );
  assert.deepEqual(rows, [{ passed: true, state: 'verified', restored: true }]);
  const events = await database.client.query(
    `SELECT payload->>'event' AS event FROM core_outboxmessage WHERE topic = 'backup.events' ORDER BY relay_seq`,
  );
  assert.deepEqual(
    events.rows.map(({ event }) => event),
    ['backup.completed', 'drill.passed'],
  );
  // Much smaller than the last good one: refused, nothing of it is left, and the good one stays.
  await database.client.query('DROP TABLE notes');
  const smaller = await namespace.orchestrator.startBackup({ type: 'database', source }, 'smaller');
  await assert.rejects(smaller.result());
  assert.match((await smaller.status()).last_error!, /^backup_refused: .*less than 50 %/);
  assert.equal((await filesIn(directory)).length, 3);
  const metadata = { accept_smaller: true };
  const accepted = await namespace.orchestrator.startBackup(
    { type: 'database', source, metadata },
    'smaller',
  );
  const second = await accepted.result();
  const retention = { kept: 1, removed: [manifest!.id], last_error: null };
  assert.deepEqual([second.state, second.retention], ['verified', retention]);
  assert.deepEqual(
    (await filesIn(directory)).map((file) => path.dirname(file)),
    Array.from({ length: 3 }, () => `database/${source}/${second.id}-2`),
    'and only then the older one goes',
  );
  await eventually('the metrics', async () => {
    const metrics = await (await fetch(`http://${worker.metricsAddress}/metrics`)).text();
    return ['success', 'verified', 'restored'].every((what) =>
      new RegExp(`^backup_last_${what}_timestamp_seconds\\{.*source="${source}".*\\} 1\\d{9}`, 'm').test(
        metrics,
      ),
    );
  });
  await pool.end();
});

test('a worker killed with -9 in the middle: another one makes the backup, and nothing else is left', async () => {
  await using world = await setUp();
  const { database, directory, namespace, source } = world;
  await using first = await startWorker(world.env);
  await first.ready();
  await fill(database.client, 20_000);
  // pg_dump waits for this lock, so the kill is sure to be in the middle.
  const holder = await database.connect();
  await holder.query('BEGIN; LOCK notes IN ACCESS EXCLUSIVE MODE');
  const job = await namespace.orchestrator.startBackup({ type: 'database', source }, 'killed');
  await eventually('the first try', async () => {
    const { rows } = await database.client.query('SELECT attempts FROM orchestrator.backup');
    return rows[0]?.attempts === 1;
  });
  await first.end('SIGKILL');
  // As if it had been killed a moment later.
  const { rows } = await database.client.query('SELECT id FROM orchestrator.backup');
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

test('cancelled, it leaves no file and no pg_dump; a task outside the allowed places is refused', async () => {
  await using world = await setUp();
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
  await using world = await setUp();
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

/** `npm run restore -- …`, in this process's Node. */
async function command(env: Record<string, string>, ...args: string[]) {
  const file = path.join(import.meta.dirname, '..', '..', 'src', 'restoreCommand.ts');
  return promisify(execFile)(process.execPath, [file, ...args], {
    env: { ...process.env, ...testStack().env(), ...env },
  }).then(
    ({ stdout }) => ({ code: 0, said: stdout }),
    ({ code, stderr }) => ({ code: code as number, said: stderr as string }),
  );
}

test('by hand: list, restore, no overwriting unless asked for, and the catalogue anew from manifests', async () => {
  await using world = await setUp();
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
    (await command(env, 'list')).said,
    new RegExp(`^${id}  database  ${source}  .*MB\n1 backups at `),
  );
  assert.match((await command(env, id, '--into', into)).said, /is restored/);
  const { rows } = await target.client.query('SELECT count(*)::int AS notes FROM notes');
  assert.equal(rows[0].notes, 500);
  await target.client.query('DELETE FROM notes');
  const refused = await command(env, id, '--into', into);
  assert.deepEqual([refused.code, /backup_refused: .*not empty/.test(refused.said)], [1, true], refused.said);
  assert.equal((await command(env, id, '--into', into, '--overwrite')).code, 0);
  assert.equal((await target.client.query('SELECT FROM notes')).rowCount, 500);
  assert.equal((await command(env, 'nonsense', '--into', into)).code, 1);
  assert.equal((await command(env, id)).code, 2);

  await database.client.query('DELETE FROM orchestrator.backup');
  assert.match((await command(env, 'catalogue')).said, /^1 backups of .* are in the catalogue/);
  assert.equal((await command(env, 'hold', id, 'an audit')).code, 0);
  assert.match(
    (await command(env, 'retention')).said,
    new RegExp(`keeps +${id}  the last good one, on hold: an audit`),
  );
  assert.equal((await command(env, 'release', id)).code, 0);
});
