import assert from 'node:assert/strict';
import { mkdir, readdir, stat, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import {
  createBackupActivities,
  createMakeBackupActivities,
  type MadeBackup,
} from '../../src/activities/backups.ts';
import { openDestination, sourceSlug } from '../../src/backups/open.ts';
import type { BegunBackup } from '../../src/database/backups.ts';
import { nextAttempt } from '../../src/database/backups.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { BackupManifest } from '../../src/domain/backups.ts';
import { backupPlace } from '../support/backups.ts';
import { outboxDatabase } from '../support/database.ts';
import { testStack } from '../support/stack.ts';
import { temporalNamespace } from '../support/worker.ts';

/** A small tree and the activities that back it up to `destination`, by default a directory. */
async function backups(destination?: string) {
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
    stop: new AbortController().signal,
    temporal: namespace.client,
  };
  const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
  const short = createBackupActivities(dependencies);
  const { makeBackup } = createMakeBackupActivities(dependencies);
  const begin = (key: string) => {
    const own = { id: crypto.randomUUID(), key, startedAt: new Date().toISOString() };
    const task = { type: 'files', source, destination: destination ?? null } as const;
    return environment.run(short.beginBackup, task, own) as Promise<BegunBackup>;
  };
  const make = (begun: BegunBackup) => environment.run(makeBackup, begun) as Promise<MadeBackup>;
  const commit = (begun: BegunBackup, made: MadeBackup) =>
    environment.run(short.commitBackup, begun, made, new Date().toISOString()) as Promise<BackupManifest>;
  /** Where the tries of all backups of the tree are. */
  const directory = path.join(place.directory, 'backups', 'files', sourceSlug(source));
  return {
    ...{ place, pool, environment, short, begin, make, commit, directory, stop: dependencies.stop },
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

test('while the health cycle says that S3 is away, a backup to it waits and spends no try', async () => {
  const destination = `s3://${testStack().env().SA01_S3_BUCKET}/backups-${crypto.randomUUID()}`;
  await using on = await backups(destination);
  const begun = await on.begin('gated');
  const gate = (until: string) =>
    on.pool.query(
      `INSERT INTO orchestrator.health_gate (component, open_until) VALUES ('storage/s3', now() + $1::interval)
       ON CONFLICT (component) DO UPDATE SET open_until = EXCLUDED.open_until`,
      [until],
    );
  await gate('1 hour');
  const waits = new Promise((resolve) => {
    on.environment.on('heartbeat', (details) => details?.stage === 'waiting' && resolve(details));
  });
  const made = on.make(begun);
  await Promise.race([waits, made]);
  const { rows } = await on.pool.query('SELECT attempts FROM orchestrator.backup');
  assert.deepEqual(rows, [{ attempts: 0 }], 'no try was begun');

  await gate('-1 second');
  const { address, content } = await made;
  assert.ok(content.files.length > 0);
  await (await openDestination(destination, on.place.settings)).remove(address, on.stop);
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

  const task = { type: 'files', source: begun.source } as const;
  const failed = { state: 'failed', error: 'backup_failed: x' } as const;
  await on.environment.run(on.short.endBackup, task, begun, failed);
  assert.deepEqual(await readdir(on.directory), ['somebody-elses']);
});

test('retention removes older backups, and what killed workers left two days ago; nothing that is newer', async () => {
  await using on = await backups();
  const hour = 3_600_000;
  await on.leaveBehind('long-ago', new Date(Date.now() - 49 * hour));
  await on.leaveBehind('lately', new Date(Date.now() - 47 * hour));
  const ids: string[] = [];
  for (const key of ['first', 'second']) {
    const begun = await on.begin(key);
    const made = await on.make(begun);
    await on.commit(begun, made);
    ids.push(made.address.id);
    const retained = await on.retain(begun);
    assert.deepEqual(retained, { kept: 1, removed: ids.slice(0, -1).map((id) => id.slice(0, -2)) });
  }
  assert.deepEqual((await readdir(on.directory)).sort(), ['lately', ids[1]!].sort());
  assert.ok((await stat(path.join(on.directory, ids[1]!, 'manifest.json'))).isFile());
});
