import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { describeError, OrchestratorError } from '../domain/errors.ts';

/** A file on its way into the spool: on the disk, but not under its name. */
export interface SpoolingFile {
  /** Gives it its name, durably; one of that name is replaced. Returns its reference. */
  keepAs(name: string): Promise<string>;
  discard(): Promise<void>;
}

/** The workers may run as another user of the same group. */
const MODE = 0o640;

/**
 * Writes bytes into the spool and down to the disk. A process that is killed meanwhile leaves a `.partial` file behind,
 * and the janitor takes it.
 * @throws OrchestratorError storage_unavailable; what `bytes` throws
 */
export async function spool(spoolDir: string, bytes: AsyncIterable<Uint8Array>): Promise<SpoolingFile> {
  const partial = path.join(spoolDir, `${randomUUID()}.partial`);
  const discard = () => rm(partial, { force: true });
  try {
    await pipeline(bytes, createWriteStream(partial, { flags: 'wx', mode: MODE, flush: true }));
  } catch (error) {
    await discard().catch(() => {});
    throw asSpoolError(error, spoolDir);
  }
  return {
    async keepAs(name) {
      try {
        await rename(partial, path.join(spoolDir, name));
        await syncDirectory(spoolDir);
        return `spool:${name}`;
      } catch (error) {
        await discard().catch(() => {});
        throw asSpoolError(error, spoolDir);
      }
    },
    discard,
  };
}

/** Only then is the new name there after a loss of power. */
async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Only the spool's own troubles: what the caller's stream throws is the caller's. */
function asSpoolError(error: unknown, spoolDir: string): unknown {
  const { syscall, path: file = '' } = error as NodeJS.ErrnoException;
  const isOwn = syscall !== undefined && (file === '' || file.startsWith(spoolDir));
  if (!isOwn || error instanceof OrchestratorError) return error;
  return new OrchestratorError('storage_unavailable', `the spool: ${describeError(error)}`);
}
