import assert from 'node:assert/strict';
import { cp, mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { attemptId, type BackupManifest, manifestOf } from '../../src/domain/backups.ts';
import { type BackupPlace, backupPlace, never } from '../support/backups.ts';
import { outboxDatabase } from '../support/database.ts';
import { restoreCommand } from '../support/restoreCommand.ts';

const idOf = (day: number): string => `2026010${day}t030000z-0000000${day}`;

/** A backup of that day, small and whole as far as anybody sees. Returns its directory. */
async function lay(
  { destination, directory }: BackupPlace,
  day: number,
  changes: Partial<BackupManifest> = {},
): Promise<string> {
  const id = idOf(day);
  const at = `2026-01-0${day}T03:00:00.000Z`;
  const address = { type: 'redis', source: 'redis', id: attemptId(id, 1) } as const;
  const begun = { id, idempotency_key: `key-${day}`, type: 'redis', source: 'redis' } as const;
  const file = { name: 'data', size: 4, sha256: 'aa', plainSize: 4, plainSha256: 'aa' } as const;
  const content = { files: [file], versions: {}, notes: [], compression: 'none', recipients: [] } as const;
  const manifest = manifestOf(
    { ...begun, destination: 'file:///where/it/was/made', metadata: {}, started_at: at },
    { ...content, files: [file], notes: [], recipients: [] },
    at,
  );
  await destination.write(address, 'data', Readable.from([Buffer.from('data')]), never);
  await destination.writeNote(address, 'manifest.json', JSON.stringify({ ...manifest, ...changes }), never);
  return path.join(directory, 'backups', 'redis', 'redis', address.id);
}

test('list and catalogue pass by what is no backup, and say so', async () => {
  await using place = await backupPlace();
  await using database = await outboxDatabase();
  const env = { SA01_DATABASE_URL: database.url, SA01_BACKUP_DESTINATION: place.destination.url };
  const good = await lay(place, 1);
  await lay(place, 2, { idempotency_key: 'key-1' });
  await lay(place, 3, { content: { files: [] } as never });
  const unreadable = await lay(place, 4);
  await rm(path.join(unreadable, 'manifest.json'));
  await mkdir(path.join(unreadable, 'manifest.json'));
  await cp(good, `${good}-copy`, { recursive: true });

  const list = await restoreCommand(env, 'list');
  assert.equal(list.code, 0, list.complained);
  assert.deepEqual(list.said.match(/^2026\w+-\w+/gm), [idOf(2), idOf(1)]);
  for (const complaint of [
    /3-1: .*its manifest is not understood/,
    /4-1: .*manifest\.json could not be read/,
    /1-1-copy: .*it is a copy of 20260101t030000z-00000001 under another name/,
  ])
    assert.match(list.complained, complaint);

  for (const _ of ['once', 'again']) {
    const catalogue = await restoreCommand(env, 'catalogue');
    assert.match(catalogue.said, /^1 backups of .* are in the catalogue/, catalogue.complained);
    assert.match(catalogue.complained, /00000001: its key belongs to another backup of the catalogue/);
    const { rows } = await database.client.query(
      'SELECT id, destination, address FROM orchestrator.backup ORDER BY id',
    );
    const address = { type: 'redis', source: 'redis', id: `${idOf(2)}-1` };
    assert.deepEqual(
      rows,
      [{ id: idOf(2), destination: place.destination.url, address }],
      'the newest has it',
    );
  }
});

test('a hold outlasts the catalogue; retention tells what would go, and what is gone', async () => {
  await using place = await backupPlace();
  await using database = await outboxDatabase();
  const env = {
    SA01_DATABASE_URL: database.url,
    SA01_BACKUP_DESTINATION: place.destination.url,
    SA01_BACKUP_RETENTION: 'last=1,minimum=1',
  };
  for (const day of [1, 2, 3]) await lay(place, day);
  const gone = await lay(place, 4);
  assert.match((await restoreCommand(env, 'catalogue')).said, /^4 backups/);
  await rm(gone, { recursive: true });
  assert.equal((await restoreCommand(env, 'hold', idOf(1), 'an audit')).code, 0);
  assert.match(
    (await restoreCommand(env, 'list')).said,
    new RegExp(`^${idOf(1)} .* on hold: an audit$`, 'm'),
  );
  await database.client.query(`DELETE FROM orchestrator.backup WHERE id = $1`, [idOf(1)]);
  assert.match((await restoreCommand(env, 'catalogue')).said, /^3 backups/);
  assert.deepEqual((await restoreCommand(env, 'retention')).said.trim().split('\n').slice(1), [
    `  is gone  ${idOf(4)}`,
    `  keeps    ${idOf(3)}  the last good one, one of the last`,
    `  removes  ${idOf(2)}  no rule keeps it`,
    `  keeps    ${idOf(1)}  on hold: an audit`,
  ]);
  assert.equal((await restoreCommand(env, 'release', idOf(1))).code, 0);
  assert.match((await restoreCommand(env, 'retention')).said, new RegExp(`removes  ${idOf(1)}  no rule`));
  assert.match((await restoreCommand(env, 'hold', idOf(4), 'x')).complained, /there is no backup/);
});
