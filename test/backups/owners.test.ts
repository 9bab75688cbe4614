import assert from 'node:assert/strict';
import { chown, lchown, lstat, mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { restoreTree } from '../../src/backups/restore.ts';
import { backUp, backupPlace, never } from '../support/backups.ts';

test('root restores owners, be they large numbers or those of links; not if that is not wanted, and nobody else', async (context) => {
  if (process.getuid?.() !== 0) return context.skip('only root may give files away');
  await using place = await backupPlace();
  const root = path.join(place.directory, 'sources', 'tree');
  await mkdir(path.join(root, 'notes'), { recursive: true });
  for (const name of ['run.sh', 'large', 'nothing'])
    await writeFile(path.join(root, name), name, { mode: 0o750 });
  await symlink('../run.sh', path.join(root, 'notes', 'link'));
  const owners: Record<string, number[]> = {
    'run.sh': [1000, 2000],
    large: [1_000_650_000, 4_000_000],
    notes: [1001, 1002],
    'notes/link': [1003, 1004],
    nothing: [0, 0],
  };
  for (const [name, [uid, gid]] of Object.entries(owners)) await lchown(path.join(root, name), uid!, gid!);
  const { address, content } = await backUp(place, 'files', root);
  const directory = path.join(place.directory, 'restored');
  const restored = async (how: { withoutOwners?: boolean; overwrite?: boolean }) => {
    await restoreTree({ ...place, address, content }, { directory, ...how }, never);
    const found = Object.keys(owners).map(async (name) => {
      const { uid, gid } = await lstat(path.join(directory, name));
      return [name, [uid, gid]];
    });
    return Object.fromEntries(await Promise.all(found));
  };
  // The directory itself is in no backup.
  await mkdir(directory, { mode: 0o750 });
  await chown(directory, 1005, 1006);
  assert.deepEqual(await restored({}), owners);
  assert.equal((await stat(path.join(directory, 'run.sh'))).mode & 0o777, 0o750);
  const without = await restored({ withoutOwners: true, overwrite: true });
  assert.deepEqual(new Set(Object.values(without).map(String)), new Set(['0,0']));
  await chown(directory, 1005, 1006);
  await restored({ overwrite: true });
  const { uid, gid, mode } = await stat(directory);
  assert.deepEqual([uid, gid, mode & 0o777], [1005, 1006, 0o750]);
});
