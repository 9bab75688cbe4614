// Programs that are fetched or built once and then kept.
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { withLock } from './lock.ts';
import { cacheRoot } from './paths.ts';

/** Tells the person at the terminal about something long; never on stdout, which may be another program's input. */
export function progress(line: string) {
  console.error(line);
}

const stillWorkingEveryMs = 20_000;

/**
 * The directory of `key` (name and version), made by `build` when it is absent.
 *
 * `build` fills a directory beside the final one, which gets its name only when all is there: whatever interrupts it,
 * nothing half-made is ever found. Two runs at once build once.
 */
export async function cached(key: string, build: (directory: string) => Promise<void>): Promise<string> {
  const directory = path.join(cacheRoot(), key);
  if (existsSync(directory)) return directory;
  const waiting = () => progress(`${key}: another run is making it, waiting …`);
  await withLock(
    `${directory}.lock`,
    async () => {
      if (!existsSync(directory)) await buildBeside(directory, build);
    },
    waiting,
  );
  return directory;
}

async function buildBeside(directory: string, build: (directory: string) => Promise<void>) {
  const key = path.basename(directory);
  await removePartial(directory);
  const partial = `${directory}.partial-${process.pid}`;
  await mkdir(partial, { recursive: true });
  // The account that runs PostgreSQL for root must get in, whatever the umask.
  for (const open of [path.dirname(directory), partial]) await chmod(open, 0o755);
  const began = Date.now();
  const seconds = () => Math.round((Date.now() - began) / 1000);
  const ticker = setInterval(() => progress(`${key}: still working (${seconds()} s)`), stillWorkingEveryMs);
  try {
    await build(partial);
    await rename(partial, directory);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  } finally {
    clearInterval(ticker);
  }
  progress(`${key}: ready in the cache (${seconds()} s)`);
}

/** Removes what a killed build left. The caller holds the key's lock, so nobody is filling it. */
async function removePartial(directory: string) {
  const prefix = `${path.basename(directory)}.partial-`;
  for (const name of await readdir(path.dirname(directory))) {
    if (name.startsWith(prefix))
      await rm(path.join(path.dirname(directory), name), { recursive: true, force: true });
  }
}
