// What tests need that drive backups through real workers.
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type pg from 'pg';
import { ownDatabase } from '../../src/backupSettings.ts';
import { postgresClients } from '../../stack/postgresClients.ts';
import { emptyDatabase } from './database.ts';
import { temporalNamespace } from './worker.ts';

/** A database, a namespace, a directory for backups, and the variables for workers on them. */
export async function backupWorld() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const parent = await mkdtemp(path.join(tmpdir(), 'backups-'));
  stack.defer(() => rm(parent, { recursive: true, force: true }));
  // The worker makes it.
  const directory = path.join(parent, 'backups');
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_BACKUP_DESTINATION: pathToFileURL(directory).href,
    SA01_PG_BIN_DIR: await postgresClients(),
  };
  const source = ownDatabase({ databaseUrl: database.url });
  /** What is told on backup.events of `of`; a worker also hears of the tasks that other tests have put into Kafka. */
  const events = async (of = source): Promise<string[]> => {
    const { rows } = await database.client.query(
      `SELECT payload->>'event' AS event FROM core_outboxmessage
       WHERE topic = 'backup.events' AND payload->>'source' = $1 ORDER BY relay_seq`,
      [of],
    );
    return rows.map(({ event }) => event);
  };
  return {
    ...{ database, namespace, directory, env, source, events },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

export async function fill(client: pg.ClientBase, rows: number): Promise<void> {
  await client.query(
    'CREATE TABLE notes AS SELECT n, md5(n::text) AS note FROM generate_series(1, $1::int) AS n',
    [rows],
  );
}

/** The files below a directory, each with its path. */
export const filesIn = async (directory: string): Promise<string[]> =>
  (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => path.relative(directory, path.join(parentPath, name)))
    .sort();
