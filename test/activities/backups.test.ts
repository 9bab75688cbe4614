import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { setInterval } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import {
  createBackupActivities,
  createMakeBackupActivities,
  type MadeBackup,
} from '../../src/activities/backups.ts';
import { writeHold } from '../../src/backups/holds.ts';
import { sourceSlug } from '../../src/backups/open.ts';
import type { BegunBackup } from '../../src/database/backups.ts';
import { nextAttempt } from '../../src/database/backups.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { RetentionPolicy } from '../../src/domain/backupRetention.ts';
import type { BackupManifest, BackupTask } from '../../src/domain/backups.ts';
import { isRunning } from '../support/backupFaults.ts';
import { backupPlace } from '../support/backups.ts';
import { emptyDatabase, outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { FragileWay } from '../support/fragileWay.ts';
import { s3FilesBelow, stackS3, unfinished } from '../support/storage.ts';
import { temporalNamespace } from '../support/worker.ts';

/** A small tree and the activities that back it up to a directory. */
async function backups(changes: { retention?: RetentionPolicy | undefined } = {}) {
  const stack = new AsyncDisposableStack();
  const place = stack.use(await backupPlace());
  const database = stack.use(await outboxDatabase());
  const namespace = stack.use(await temporalNamespace());
  const source = path.join(place.directory, 'sources', 'tree');
  await mkdir(source);
  await writeFile(path.join(source, 'file'), 'content');
  const pool = openPool(database.url);
  stack.defer(() => pool.end());
  const dependencies = {
    pool,
    settings: place.settings,
    defaultDestination: place.destination.url,
    retention: { last: 1, minimum: 1 },
    ...changes,
    stop: new AbortController().signal,
    temporal: namespace.client,
  };
  const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
  const short = createBackupActivities(dependencies);
  const { makeBackup } = createMakeBackupActivities(dependencies);
  const begin = (key: string, asked: Partial<BackupTask> = {}) => {
    const own = { id: crypto.randomUUID(), key, startedAt: new Date().toISOString() };
    const task = { type: 'files', source, ...asked } as const;
    return environment.run(short.beginBackup, task, own) as Promise<BegunBackup>;
  };
  const make = (begun: BegunBackup) => environment.run(makeBackup, begun) as Promise<MadeBackup>;
  const commit = (begun: BegunBackup, made: MadeBackup) =>
    environment.run(short.commitBackup, begun, made, new Date().toISOString()) as Promise<BackupManifest>;
  const end = (begun: BegunBackup) => {
    const how = { state: 'failed', error: 'backup_failed: x' } as const;
    return environment.run(short.endBackup, { type: 'files', source } as const, begun, how);
  };
  const stateOf = async ({ id }: BegunBackup) =>
    (await pool.query('SELECT state FROM orchestrator.backup WHERE id = $1', [id])).rows[0]?.state;
  const events = async () =>
    (
      await pool.query(`SELECT payload->>'event' AS event FROM core_outboxmessage ORDER BY relay_seq`)
    ).rows.map(({ event }) => event);
  /** Where the tries of all backups of the tree are. */
  const directory = path.join(place.directory, 'backups', 'files', sourceSlug(source));
  return {
    ...{
      place,
      pool,
      environment,
      short,
      begin,
      make,
      commit,
      end,
      stateOf,
      events,
      directory,
      stop: dependencies.stop,
    },
    retain: (begun: BegunBackup) => environment.run(short.applyRetention, begun),
    /** What a worker left that was killed in a try. */
    async leaveBehind(id: string, since = new Date()) {
      const left = path.join(directory, id);
      await mkdir(left, { recursive: true });
      await writeFile(path.join(left, 'data'), 'half of it');
      for (const one of [path.join(left, 'data'), left]) await utimes(one, since, since);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test('while the health cycle says that S3 is away, a backup to it is not worth a try', async () => {
  await using on = await backups();
  const ask = () => on.environment.run(on.short.untilWorthTrying);
  const gate = (until: string) =>
    on.pool.query(
      `INSERT INTO orchestrator.health_gate (component, open_until) VALUES ('storage/s3', now() + $1::interval)
       ON CONFLICT (component) DO UPDATE SET open_until = EXCLUDED.open_until`,
      [until],
    );
  await ask();
  await gate('1 hour');
  await assert.rejects(ask(), { type: 'backup_failed', nonRetryable: false, category: 'BENIGN' });
  await gate('-1 second');
  await ask();
});

test('a backup whose data is gone by the time of its manifest is none', async () => {
  await using on = await backups();
  const begun = await on.begin('lost');
  const made = await on.make(begun);
  await rm(path.join(on.directory, made.address.id), { recursive: true });
  await assert.rejects(on.commit(begun, made), { type: 'backup_refused', message: /data is not there/ });
  assert.deepEqual(await readdir(on.directory), []);
  assert.equal(await on.stateOf(begun), 'running');
});

test('who ends a backup while its manifest is written comes too late, and clears nothing away', async () => {
  await using on = await backups();
  const begun = await on.begin('raced');
  const made = await on.make(begun);
  const other = await on.pool.connect();
  await other.query('BEGIN');
  // Holds back the commit's last step: then the manifest is written, and the row is not.
  await other.query('LOCK core_outboxmessage IN ACCESS EXCLUSIVE MODE');
  const committed = on.commit(begun, made);
  const manifest = path.join(on.directory, made.address.id, 'manifest.json');
  await eventually('the manifest', () => stat(manifest).catch(() => false));
  const ended = on.end(begun);
  await eventually('its end to wait for the commit', async () => {
    const { rows } = await on.pool.query(
      `SELECT count(*)::int AS waiting FROM pg_stat_activity
       WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    return rows[0].waiting === 2;
  });
  await other.query('ROLLBACK');
  other.release();
  await Promise.all([committed, ended]);
  assert.equal(await on.stateOf(begun), 'verified');
  assert.ok((await stat(manifest)).isFile());
  assert.deepEqual(await on.events(), ['backup.completed']);
});

test('a backup that has ended does not come back', async () => {
  await using on = await backups();
  const begun = await on.begin('ended');
  const made = await on.make(begun);
  await on.end(begun);
  assert.deepEqual(await readdir(on.directory), []);
  await assert.rejects(on.commit(begun, made), { type: 'backup_refused' });
  await assert.rejects(on.make(begun), { type: 'backup_refused' });
  assert.deepEqual([await on.stateOf(begun), await readdir(on.directory)], ['failed', []]);
});

test('a try that stands still is given up, and its pg_dump with it', async (context) => {
  await using on = await backups();
  await using database = await emptyDatabase();
  const pgBinDir = path.join(on.place.directory, 'programs');
  const started = path.join(on.place.directory, 'pid');
  await mkdir(pgBinDir);
  const script = `#!/bin/sh
case "$1" in --version) echo "pg_dump (PostgreSQL) 99.0"; exit;; esac
echo $$ > ${started}.new; mv ${started}.new ${started}; exec sleep 1000`;
  await writeFile(path.join(pgBinDir, 'pg_dump'), script, { mode: 0o755 });
  await writeFile(path.join(pgBinDir, 'pg_restore'), '#!/bin/sh\nexec cat > /dev/null', { mode: 0o755 });
  Object.assign(on.place.settings, { pgBinDir, databases: { core: database.url } });
  const own = { id: 'a', key: 'still', startedAt: new Date().toISOString() };
  const task = { type: 'database', source: 'core' } as const;
  const begun = (await on.environment.run(on.short.beginBackup, task, own)) as BegunBackup;

  context.mock.timers.enable({ apis: ['setTimeout'] });
  const made = on.make(begun);
  for await (const _ of setInterval(50)) if (await stat(started).catch(() => undefined)) break;
  context.mock.timers.tick(15 * 60_000);
  await assert.rejects(made, {
    type: 'backup_failed',
    nonRetryable: false,
    message: 'nothing came or went for 15 minutes',
  });
  context.mock.timers.reset();
  const pid = Number(await readFile(started, 'utf8'));
  await eventually('the end of pg_dump', async () => !(await isRunning(pid)));
});

test('what earlier tries left is removed before another one begins, and at the end what the last one left', async () => {
  await using on = await backups();
  const begun = await on.begin('again');
  for (let tries = 0; tries < 2; tries += 1) {
    await on.leaveBehind(`${begun.id}-${await nextAttempt(on.pool, begun.id)}`);
  }
  await on.leaveBehind('somebody-elses');
  const { address } = await on.make(begun);
  assert.equal(address.id, `${begun.id}-3`);
  assert.deepEqual((await readdir(on.directory)).sort(), [address.id, 'somebody-elses'].sort());

  await on.end(begun);
  assert.deepEqual(await readdir(on.directory), ['somebody-elses']);
});

test('the way to S3 is lost in the middle of a try, for good; the next one removes its parts and makes the backup', async () => {
  await using on = await backups();
  await using way = await FragileWay.to(stackS3().endpoint);
  const { s3 } = on.place.settings.destinations;
  Object.assign(on.place.settings.destinations, { s3: { ...s3, endpoint: way.endpoint } });
  const size = 40_000_000;
  await writeFile(path.join(on.place.directory, 'sources', 'tree', 'file'), randomBytes(size));
  const destination = `s3://${s3!.buckets[0]}/backups-${crypto.randomUUID()}`;
  const begun = await on.begin('lost way', { destination });
  way.breaksAfter(size / 2, 'request');
  await assert.rejects(on.make(begun), { type: 'backup_failed', nonRetryable: false });
  const place = `files/${sourceSlug(begun.source)}/${begun.id}`;
  assert.deepEqual(await s3FilesBelow(destination), [unfinished(`${place}-1/data`)]);
  way.mend();
  await on.commit(begun, await on.make(begun));
  assert.deepEqual(await s3FilesBelow(destination), [`${place}-2/data`, `${place}-2/manifest.json`]);
});

test('retention removes older backups, and what killed workers left two days ago; nothing that is newer', async () => {
  await using on = await backups();
  const hour = 3_600_000;
  const [longAgo, lately] = ['20260101t000000z-00000000-1', '20260102t000000z-00000000-1'] as const;
  await on.leaveBehind(longAgo, new Date(Date.now() - 49 * hour));
  await on.leaveBehind(lately, new Date(Date.now() - 47 * hour));
  const ids: string[] = [];
  for (const key of ['first', 'second']) {
    const begun = await on.begin(key);
    const made = await on.make(begun);
    await on.commit(begun, made);
    ids.push(made.address.id);
    const retained = await on.retain(begun);
    assert.deepEqual(retained, { kept: 1, removed: ids.slice(0, -1).map((id) => id.slice(0, -2)) });
  }
  assert.deepEqual((await readdir(on.directory)).sort(), [lately, ids[1]!].sort());
  assert.ok((await stat(path.join(on.directory, ids[1]!, 'manifest.json'))).isFile());
});

test('where retention is off, what killed workers left goes all the same', async () => {
  await using on = await backups({ retention: undefined });
  const left = '20260101t000000z-00000000-1';
  await on.leaveBehind(left, new Date(Date.now() - 49 * 3_600_000));
  const begun = await on.begin('only');
  await on.commit(begun, await on.make(begun));
  assert.deepEqual(await on.retain(begun), { kept: null, removed: [] });
  assert.ok(!(await readdir(on.directory)).includes(left));
});

test('retention does not count what somebody deleted, and heeds a hold of which the catalogue knows nothing', async () => {
  await using on = await backups({ retention: { last: 2 } });
  const made: MadeBackup[] = [];
  let last: BegunBackup | undefined;
  for (const key of ['held', 'second', 'deleted', 'last']) {
    last = await on.begin(key);
    const one = await on.make(last);
    await on.commit(last, one);
    made.push(one);
  }
  await rm(path.join(on.directory, made[2]!.address.id), { recursive: true });
  assert.deepEqual(await on.retain(last!), { kept: 2, removed: [made[0]!.address.id.slice(0, -2)] });
  await writeHold(on.place.destination, made[1]!.address, 'an audit', on.stop);
  last = await on.begin('newer');
  await on.commit(last, await on.make(last));
  assert.deepEqual(await on.retain(last), { kept: 3, removed: [] });
});

test('a tree is not backed up into itself', async () => {
  await using on = await backups();
  const tree = path.join(on.place.directory, 'backups', 'tree');
  await mkdir(tree);
  on.place.settings.fileRoots.push(tree);
  await assert.rejects(on.begin('inside', { source: tree, destination: `file://${tree}/backups` }), {
    type: 'backup_refused',
    message: /lies in .*, or around it/,
  });
});
