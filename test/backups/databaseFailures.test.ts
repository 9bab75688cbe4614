// Each failure is told clearly, leaves nothing behind, and does not touch the backup that was there before.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import type { BackupSettings } from '../../src/backups/settings.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import { postgresClients } from '../../stack/postgresClients.ts';
import { childrenRunning, faulty, flipOneBit, isRunning, keepOnly } from '../support/backupFaults.ts';
import {
  type BackupPlace,
  backUp,
  backupPlace,
  catalogue,
  type MakingOptions,
  never,
  strandedIn,
} from '../support/backups.ts';
import { emptyDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

describe('a backup of a database fails clearly and leaves nothing', () => {
  let database: TestDatabase;
  let place: BackupPlace;
  let good: { id: string; sha256: string };

  before(async () => {
    database = await emptyDatabase();
    place = await backupPlace({ databases: { agents: database.url } });
    // Incompressible, and more than all buffers on the way hold together.
    await database.client.query(`CREATE TABLE big AS
      SELECT i AS id, gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text AS payload
      FROM generate_series(1, 200000) i`);
    await database.client.query('CREATE TABLE private (id int)');
    const { address, content } = await backUp(place, 'database', 'agents');
    good = { id: address.id, sha256: content.files[0]!.sha256 };
  });
  after(async () => {
    await place[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  async function failsWith(
    expected: { code?: string; message?: RegExp } | ((error: unknown) => boolean),
    options: MakingOptions = {},
    changes: Partial<BackupSettings> = {},
  ) {
    const settings = { ...place.settings, ...changes };
    await assert.rejects(backUp({ ...place, settings }, 'database', 'agents', options), expected);
    assert.deepEqual(await catalogue(place.destination), [good.id]);
    assert.deepEqual(await strandedIn(place.destination), []);
    const directory = path.join(place.directory, 'backups', 'database', 'agents');
    assert.deepEqual(await readdir(directory), [good.id]);
    assert.deepEqual((await readdir(path.join(directory, good.id))).sort(), [
      'data',
      'globals',
      'manifest.json',
    ]);
    await eventually('the end of pg_dump', async () => (await childrenRunning('pg_dump')).length === 0);
  }

  /** Does it once, when so many bytes have been read. */
  const when = (bytes: number, work: () => unknown) => {
    let done = false;
    return (progress: { stage: string; bytes: number }) => {
      if (done || progress.stage !== 'reading' || progress.bytes < bytes) return;
      done = true;
      work();
    };
  };

  /** Programs of a test's own in place of PostgreSQL's; `real` is where those are. */
  async function programs(name: string, scripts: (real: string) => Record<string, string>): Promise<string> {
    const pgBinDir = path.join(place.directory, name);
    await mkdir(pgBinDir);
    for (const [program, script] of Object.entries(scripts(await postgresClients())))
      await writeFile(path.join(pgBinDir, program), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    return pgBinDir;
  }

  const withUser = async (user: string, password: string) => {
    const url = Object.assign(new URL(database.url), { username: user, password });
    return { databases: { agents: url.href } };
  };

  test('pg_dump is killed', () =>
    failsWith(
      { code: 'backup_failed', message: /pg_dump was ended by SIGKILL/ },
      {
        onProgress: when(5_000_000, async () => {
          for (const pid of await childrenRunning('pg_dump')) process.kill(pid, 'SIGKILL');
        }),
      },
    ));

  test('the connection is lost in the middle', () =>
    failsWith(
      {
        code: 'backup_failed',
        message: /pg_dump ended with 1: .*(terminating connection|closed the connection)/,
      },
      {
        onProgress: when(5_000_000, () =>
          database.client.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND datname = current_database()",
          ),
        ),
      },
    ));

  test('it is cancelled: the reason is thrown, and pg_dump is stopped', () => {
    const cancel = new AbortController();
    const reason = new Error('cancelled by a person');
    const onProgress = when(5_000_000, () => cancel.abort(reason));
    return failsWith((error) => error === reason, { signal: cancel.signal, onProgress });
  });

  test('it is cancelled while pg_dump hangs', () => {
    const cancel = new AbortController();
    const reason = new Error('cancelled by a person');
    const onProgress = when(5_000_000, async () => {
      for (const pid of await childrenRunning('pg_dump')) process.kill(pid, 'SIGSTOP');
      cancel.abort(reason);
    });
    return failsWith((error) => error === reason, { signal: cancel.signal, onProgress });
  });

  test('it is cancelled while a script waits for what it runs in place of pg_dump', async () => {
    const pidFile = path.join(place.directory, 'pid');
    const pgBinDir = await programs('wrapped', (real) => ({
      pg_dump: `case "$1" in --version) exec ${real}/pg_dump --version;; esac
sleep 1000 & echo $! > ${pidFile}.new; mv ${pidFile}.new ${pidFile}; wait`,
      pg_restore: `exec ${real}/pg_restore "$@"`,
    }));
    const cancel = new AbortController();
    const reason = new Error('cancelled by a person');
    const failing = failsWith((error) => error === reason, { signal: cancel.signal }, { pgBinDir });
    const pid = await eventually('the script', () => readFile(pidFile, 'utf8'));
    cancel.abort(reason);
    await failing;
    await eventually('the end of what it ran', async () => !(await isRunning(Number(pid))));
  });

  test('the destination fails while pg_dump hangs', () => {
    const { destination } = place;
    const broken = Object.assign(Object.create(destination) as typeof destination, {
      async write() {
        const [pid] = await eventually('pg_dump', async () => {
          const pids = await childrenRunning('pg_dump');
          return pids.length > 0 ? pids : undefined;
        });
        process.kill(pid!, 'SIGSTOP');
        throw new OrchestratorError('backup_failed', 'the destination broke');
      },
    });
    const expected = { code: 'backup_failed', message: /the destination broke/ };
    return failsWith(expected, { destination: broken });
  });

  test('the destination changes a bit silently', () =>
    failsWith(
      { code: 'backup_failed', message: /data is damaged|another SHA-256/ },
      { destination: faulty(place.destination, flipOneBit) },
    ));

  test('the destination changes a bit of what only the owner of the key can open', async () => {
    const recipients = [await identityToRecipient(await generateIdentity())];
    const expected = { code: 'backup_failed', message: /data has another SHA-256 than was written/ };
    await failsWith(expected, { destination: faulty(place.destination, flipOneBit) }, { recipients });
  });

  test('the destination loses the end silently', () =>
    failsWith(
      { code: 'backup_failed', message: /has 100000 bytes instead of/ },
      { destination: faulty(place.destination, keepOnly(100_000)) },
    ));

  test('the password is wrong, and is not shown', async () => {
    const changes = await withUser('somaagent', 'not-the-password');
    await failsWith(
      (error) =>
        error instanceof Error &&
        /password authentication failed/.test(error.message) &&
        !/not-the-password/.test(JSON.stringify(error) + error.message),
      {},
      changes,
    );
  });

  test('the role may not read one table, which is named', async () => {
    const role = `reader_${process.pid}`;
    await database.client.query(
      `CREATE ROLE ${role} LOGIN PASSWORD 'reader'; GRANT SELECT ON big TO ${role}`,
    );
    try {
      const expected = { code: 'backup_refused', message: /may not read all rows of public\.private$/ };
      await failsWith(expected, {}, await withUser(role, 'reader'));
    } finally {
      await database.client.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  test('a policy hides rows from the role', async () => {
    const role = `restricted_${process.pid}`;
    await database.client.query(`CREATE ROLE ${role} LOGIN PASSWORD 'reader'`);
    await database.client.query(`GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`);
    await database.client.query('ALTER TABLE private ENABLE ROW LEVEL SECURITY');
    try {
      const expected = { code: 'backup_refused', message: /may not read all rows of public\.private$/ };
      await failsWith(expected, {}, await withUser(role, 'reader'));
    } finally {
      await database.client.query('ALTER TABLE private DISABLE ROW LEVEL SECURITY');
      await database.client.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  test('pg_dump is older than the server, which is found out before anything starts', async () => {
    const pgBinDir = await programs('old', () => ({ pg_dump: 'echo "pg_dump (PostgreSQL) 12.1"' }));
    const expected = { code: 'backup_refused', message: /of version 12\.1 and the server of 16\.4/ };
    await failsWith(expected, {}, { pgBinDir });
  });

  test('there is no pg_dump', () =>
    failsWith(
      { code: 'backup_refused', message: /pg_dump is not there: set SA01_PG_BIN_DIR/ },
      {},
      { pgBinDir: '/nowhere' },
    ));

  for (const [what, half, message] of [
    ['half of it', 'head -c 5000000', /pg_restore ended with 1: .*(end of file|could not find block)/],
    ['nothing of it', 'wc -c', /pg_restore ended with 1: .*not appear to be a valid archive/],
  ] as const)
    test(`pg_dump says well done after ${what}`, async () => {
      const pgBinDir = await programs(`dumps ${what}`, (real) => ({
        pg_dump: `case "$1" in --version) exec ${real}/pg_dump --version;; esac\n${real}/pg_dump "$@" | ${half}`,
        pg_dumpall: `exec ${real}/pg_dumpall "$@"`,
        pg_restore: `exec ${real}/pg_restore "$@"`,
      }));
      await failsWith({ code: 'backup_failed', message }, {}, { pgBinDir });
    });

  test('the backup that was there before is as it was', async () => {
    const address = { type: 'database', source: 'agents', id: good.id } as const;
    const manifest = JSON.parse((await place.destination.readNote(address, 'manifest.json', never))!);
    assert.equal(manifest.content.files[0].sha256, good.sha256);
  });
});
