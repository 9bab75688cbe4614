import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import {
  createBackupActivities,
  createMakeBackupActivities,
  type MadeBackup,
} from '../../src/activities/backups.ts';
import { openDestination } from '../../src/backups/open.ts';
import type { BegunBackup } from '../../src/database/backups.ts';
import { openPool } from '../../src/database/postgres.ts';
import { backupPlace } from '../support/backups.ts';
import { outboxDatabase } from '../support/database.ts';
import { testStack } from '../support/stack.ts';
import { temporalNamespace } from '../support/worker.ts';

test('while the health cycle says that S3 is away, a backup to it waits and spends no try', async () => {
  await using place = await backupPlace();
  await using database = await outboxDatabase();
  await using namespace = await temporalNamespace();
  const source = path.join(place.directory, 'sources', 'tree');
  await mkdir(source);
  await writeFile(path.join(source, 'file'), 'content');
  const pool = openPool(database.url);
  const dependencies = {
    pool,
    settings: place.settings,
    defaultDestination: undefined,
    retention: undefined,
    stop: new AbortController().signal,
    temporal: namespace.client,
  };
  const destination = `s3://${testStack().env().SA01_S3_BUCKET}/backups-${crypto.randomUUID()}`;
  const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
  try {
    const task = { type: 'files', source, destination } as const;
    const own = { id: crypto.randomUUID(), key: 'gated', startedAt: new Date().toISOString() };
    const { beginBackup } = createBackupActivities(dependencies);
    const begun = (await environment.run(beginBackup, task, own)) as BegunBackup;
    const gate = (until: string) =>
      pool.query(
        `INSERT INTO orchestrator.health_gate (component, open_until) VALUES ('storage/s3', now() + $1::interval)
         ON CONFLICT (component) DO UPDATE SET open_until = EXCLUDED.open_until`,
        [until],
      );
    await gate('1 hour');
    const waits = new Promise((resolve) => {
      environment.on('heartbeat', (details) => details?.stage === 'waiting' && resolve(details));
    });
    const { makeBackup } = createMakeBackupActivities(dependencies);
    const made = environment.run<[BegunBackup], MadeBackup, typeof makeBackup>(makeBackup, begun);
    await Promise.race([waits, made]);
    const { rows } = await pool.query('SELECT attempts FROM orchestrator.backup');
    assert.deepEqual(rows, [{ attempts: 0 }], 'no try was begun');

    await gate('-1 second');
    const { address, content } = await made;
    assert.ok(content.files.length > 0);
    await (await openDestination(destination, place.settings)).remove(address, dependencies.stop);
  } finally {
    await pool.end();
  }
});
