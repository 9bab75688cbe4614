// A large file takes no more memory than a small one.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { stackS3, storageDirectory } from '../support/storage.ts';

const run = promisify(execFile);
const script = fileURLToPath(new URL('../support/storageFlat.ts', import.meta.url));

/** The most that a process held, in MiB. */
async function peaks(tier: string, settings: object): Promise<{ small: number; large: number }> {
  const { stdout } = await run(process.execPath, [script, tier, '300', JSON.stringify(settings)]);
  return JSON.parse(stdout) as { small: number; large: number };
}

test('300 MiB stream through S3 and back with the memory of 64 MiB', async () => {
  const { small, large } = await peaks('s3', { s3: stackS3() });
  assert.ok(large - small < 64, `${large} MiB instead of ${small} MiB`);
});

test('300 MiB stream through a directory and back with the memory of 64 MiB', async () => {
  await using directory = await storageDirectory();
  const { small, large } = await peaks('filesystem', { storageDir: directory.root });
  assert.ok(large - small < 64, `${large} MiB instead of ${small} MiB`);
});
