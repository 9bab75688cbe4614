// What only a file system does.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { chmod, mkdir, open, readdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { OrchestratorError } from '../../src/domain/errors.ts';
import { FilesystemTier } from '../../src/storage/filesystem.ts';
import { eventually } from '../support/eventually.ts';
import {
  contentOf,
  factsOf,
  flipped,
  kept,
  never,
  newKey,
  sourceOf,
  storageDirectory,
  strandedOf,
} from '../support/storage.ts';

const run = promisify(execFile);
const MEBIBYTE = 1024 * 1024;

test('While two operations hang, the directory is away at once; when they end after all, it is back', async () => {
  await using directory = await storageDirectory();
  const tier = new FilesystemTier(directory.root);
  const hanging = [newKey(), newKey()].map((key) => ({
    key,
    pipe: path.join(directory.root, 'uploads', key.slice(0, 2), key),
  }));
  const facts = factsOf(contentOf(1));
  const verify = (signal: AbortSignal) => tier.verify(newKey(), facts, signal);
  const release = async () => {
    for (const { pipe } of hanging) await (await open(pipe, constants.O_RDWR)).close();
  };
  // Also if the test fails: a process with a thread that hangs does not end.
  await using _ = { [Symbol.asyncDispose]: release };
  const controller = new AbortController();
  // Nobody writes into them, so opening one to read never comes back: as on a mount that hangs.
  const ends = [];
  for (const { key, pipe } of hanging) {
    await mkdir(path.dirname(pipe), { recursive: true });
    await run('mkfifo', [pipe]);
    ends.push(assert.rejects(tier.verify(key, facts, controller.signal), { name: 'AbortError' }));
  }
  assert.equal(await verify(never), undefined, 'they may yet be only slow');
  controller.abort();
  const isAway = async () => {
    const error = await verify(never).catch((error: unknown) => error);
    if (error === undefined) return false;
    assert.deepEqual((error as OrchestratorError).code, 'storage_unavailable');
    assert.match(String(error), /2 earlier operations hang/);
    return true;
  };
  await eventually('away', isAway);
  assert.equal(
    await new FilesystemTier(directory.root).verify(newKey(), facts, never).catch(() => 'away'),
    'away',
  );
  await release();
  await Promise.all(ends);
  await eventually('back', async () => !(await isAway()));
});

test('A flipped bit on the disk is found, and never given as the file', async () => {
  await using directory = await storageDirectory();
  const tier = new FilesystemTier(directory.root);
  const [key, bytes] = [newKey(), contentOf(10_000)];
  const { location } = await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  await writeFile(fileURLToPath(location), flipped(bytes));
  await assert.rejects(tier.verify(key, factsOf(bytes), never), { code: 'upload_corrupt' });
  await assert.rejects(tier.store(key, sourceOf(bytes), factsOf(bytes), never), { code: 'upload_refused' });
});

test('A root that is not there is an outage, and is not made', async () => {
  await using directory = await storageDirectory();
  const root = path.join(directory.root, 'unmounted');
  const tier = new FilesystemTier(root);
  const bytes = contentOf(1);
  const uses = [
    () => tier.store(newKey(), sourceOf(bytes), factsOf(bytes), never),
    () => tier.verify(newKey(), factsOf(bytes), never),
    () => tier.read(newKey(), never),
    () => tier.remove(newKey(), never),
    () => tier.stranded(0, never),
  ];
  for (const use of uses)
    await assert.rejects(async () => use(), { code: 'storage_unavailable', message: /ENOENT/ });
  assert.deepEqual(await readdir(directory.root), []);
});

test('Files are for their owner alone', async () => {
  await using directory = await storageDirectory();
  const bytes = contentOf(1);
  const { location } = await new FilesystemTier(directory.root).store(
    newKey(),
    sourceOf(bytes),
    factsOf(bytes),
    never,
  );
  assert.equal((await stat(fileURLToPath(location))).mode & 0o777, 0o600);
  assert.equal((await stat(path.join(directory.root, 'uploads'))).mode & 0o777, 0o700);
});

test('A link below the root does not lead out of it', async () => {
  await using directory = await storageDirectory();
  await using elsewhere = await storageDirectory();
  const [key, bytes] = [newKey(), contentOf(1)];
  const tier = new FilesystemTier(directory.root);
  await mkdir(path.join(directory.root, 'uploads'));
  await symlink(elsewhere.root, path.join(directory.root, 'uploads', key.slice(0, 2)));
  await assert.rejects(tier.store(key, sourceOf(bytes), factsOf(bytes), never), { code: 'storage_refused' });
  assert.deepEqual(await readdir(elsewhere.root), []);
});

test('A file is stranded as long after its last byte as it is told', async () => {
  await using directory = await storageDirectory();
  const tier = new FilesystemTier(directory.root);
  const [key, bytes] = [newKey(), contentOf(1)];
  const { location } = await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  const stored = fileURLToPath(location);
  const partial = path.join(path.dirname(stored), `.${key}.0123456789abcdef.partial`);
  await writeFile(partial, 'half');
  const old = new Date('2020-01-01');
  for (const file of [partial, stored]) await utimes(file, old, old);
  // What is not ours to judge.
  await writeFile(path.join(path.dirname(stored), '.hidden.partial'), '');
  assert.deepEqual(await tier.stranded(old.getTime(), never), []);
  const [found, ...others] = await tier.stranded(old.getTime() + 1, never);
  assert.deepEqual([found!.name, found!.since, others], [partial, old, []]);
  await found!.remove(never);
  assert.deepEqual(await strandedOf(tier, key), []);
  assert.deepEqual(await readFile(stored), bytes);
});

test('A root without the right to write is refused', async (t) => {
  if (process.getuid?.() === 0) return t.skip('root may write everywhere');
  await using directory = await storageDirectory();
  await chmod(directory.root, 0o500);
  const bytes = contentOf(1);
  const tier = new FilesystemTier(directory.root);
  await assert.rejects(tier.store(newKey(), sourceOf(bytes), factsOf(bytes), never), {
    code: 'storage_refused',
  });
  await chmod(directory.root, 0o700);
});

test('A full disk refuses, keeps what it has, and nothing is left of the rest', async (t) => {
  await using directory = await storageDirectory();
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', directory.root]);
  } catch (error) {
    return t.skip(`no small disk can be mounted here: ${(error as Error).message}`);
  }
  try {
    const tier = new FilesystemTier(directory.root);
    const [small, large] = [contentOf(1_000), contentOf(5 * MEBIBYTE)];
    const [first, second] = [newKey(), newKey()];
    await tier.store(first, sourceOf(small), factsOf(small), never);
    await assert.rejects(tier.store(second, sourceOf(large), factsOf(large), never), {
      code: 'storage_refused',
      message: /ENOSPC/,
    });
    assert.ok((await kept(tier, first)).equals(small));
    assert.deepEqual(await strandedOf(tier, second), []);
    // There is room again.
    const third = contentOf(1 * MEBIBYTE);
    await tier.store(second, sourceOf(third), factsOf(third), never);
  } finally {
    await run('umount', [directory.root]);
  }
});
