// Workers killed with -9 at random moments of backups and drills: each key has one verified backup at the end, nothing
// else lies at the destination, and the newest one restores.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { ownDatabase } from '../../src/backupSettings.ts';
import { postgresClients } from '../../stack/postgresClients.ts';
import { emptyDatabase } from '../support/database.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

export interface BackupSoak {
  rows: number;
  kills: number;
}

export async function backupKills({ rows, kills }: BackupSoak, say: (line: string) => void): Promise<void> {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const directory = await mkdtemp(path.join(tmpdir(), 'backup-soak-'));
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_BACKUP_DESTINATION: pathToFileURL(directory).href,
    SA01_BACKUP_RETENTION: 'all',
    SA01_PG_BIN_DIR: await postgresClients(),
  };
  const { client } = database;
  await client.query(
    'CREATE TABLE notes AS SELECT n, md5(n::text) AS note FROM generate_series(1, $1::int) AS n',
    [rows],
  );
  const source = ownDatabase({ databaseUrl: database.url });
  let worker = await startWorker(env);
  await worker.ready();
  let killed = 0;
  /** Kills and replaces the worker once while the work goes on, somewhere on its way. */
  const killedOnce = async (what: string, start: () => Promise<{ result(): Promise<unknown> }>) => {
    const job = await start();
    await delay(Math.random() * 1_200);
    await worker.end('SIGKILL');
    killed += 1;
    say(`kill ${killed} during ${what}`);
    worker = await startWorker(env);
    await worker.ready();
    await job.result();
    return job;
  };
  let backups = 0;
  try {
    while (killed < kills) {
      backups += 1;
      const key = `soak-${backups}`;
      await killedOnce(`backup ${backups}`, () =>
        namespace.orchestrator.startBackup({ type: 'database', source }, key),
      );
      if (killed === kills) break;
      const id = `restore-drill/${key}`;
      await killedOnce(`drill ${backups}`, () => namespace.orchestrator.startRestoreDrill({}, id));
    }
    const last = await namespace.orchestrator.startRestoreDrill();
    assert.deepEqual((await last.result()).evidence?.differences, []);
    const found = await client.query(
      `SELECT id, address->>'id' AS directory, state FROM orchestrator.backup ORDER BY id`,
    );
    assert.deepEqual(
      found.rows.map(({ state }) => state),
      Array.from({ length: backups }, () => 'verified'),
    );
    const place = path.join(directory, 'database', source);
    const present = (await readdir(place)).sort();
    assert.deepEqual(present, found.rows.map(({ directory: own }) => own).sort(), 'orphans');
    for (const one of present)
      assert.deepEqual((await readdir(path.join(place, one))).sort(), ['data', 'globals', 'manifest.json']);
    const scratch = await client.query(`SELECT FROM pg_database WHERE datname LIKE 'restore\\_drill\\_%'`);
    say(
      `${backups} verified backups after ${killed} kills, no orphans, ${scratch.rowCount} scratch databases`,
    );
  } finally {
    await worker[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  }
}
