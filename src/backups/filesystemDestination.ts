import { randomUUID } from 'node:crypto';
import { type FileHandle, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import type { BackupAddress, BackupFile } from '../domain/backupFacts.ts';
import { isAttemptId } from '../domain/backups.ts';
import { OrchestratorError } from '../domain/errors.ts';
import {
  type BackupDestination,
  isOwnFile,
  MANIFEST,
  type Note,
  PARTIAL,
  type StrandedBackup,
} from './destination.ts';
import { addressOf, addressPath, directoryWithin, ofSystem, refused } from './names.ts';

const READ_BYTES = 256 * 1024;

/**
 * A directory as destination. Files are written under another name, synced and renamed, and so are the directories that
 * name them, so what is there after a power loss is whole.
 */
export class FilesystemDestination implements BackupDestination {
  readonly url: string;
  /** A real path; nothing is read or written outside of it. */
  readonly root: string;

  constructor(root: string) {
    this.root = root;
    this.url = pathToFileURL(root).href;
  }

  async write(
    address: BackupAddress,
    file: BackupFile,
    content: Readable,
    signal: AbortSignal,
  ): Promise<void> {
    const wanted = path.join(this.root, addressPath(address));
    try {
      await directoryWithin([this.root], wanted, { create: true });
      await this.put(address, file, (handle) => handle.writeFile(content, { signal }));
    } catch (error) {
      // Goes only if it is empty.
      await rmdir(wanted).catch(() => {});
      throw error;
    }
  }

  async read(address: BackupAddress, file: BackupFile, signal: AbortSignal): Promise<Readable> {
    return reading(file, async () => {
      const handle = await open(path.join(await this.directory(address), file), 'r');
      return handle.createReadStream({ signal, highWaterMark: READ_BYTES });
    });
  }

  size(address: BackupAddress, file: BackupFile): Promise<number | undefined> {
    const wanted = path.join(this.root, addressPath(address), file);
    return reading(file, async () => (await stat(wanted).catch(absent))?.size);
  }

  writeNote(address: BackupAddress, note: Note, text: string): Promise<void> {
    return this.put(address, note, (handle) => handle.writeFile(text));
  }

  readNote(address: BackupAddress, note: Note, signal: AbortSignal): Promise<string | undefined> {
    const file = path.join(this.root, addressPath(address), note);
    return reading(note, () => readFile(file, { encoding: 'utf8', signal }).catch(absent));
  }

  async *list(signal: AbortSignal): AsyncGenerator<BackupAddress> {
    for await (const address of this.addresses()) {
      signal.throwIfAborted();
      if ((await this.names(address))?.includes(MANIFEST)) yield address;
    }
  }

  async remove(address: BackupAddress, signal: AbortSignal): Promise<void> {
    const directory = path.join(this.root, addressPath(address));
    await reading('the backup', async () => {
      if (!(await stat(directory).catch(absent))) return;
      await directoryWithin([this.root], directory);
      await rm(path.join(directory, MANIFEST), { force: true });
      await sync(directory);
      signal.throwIfAborted();
      for (const name of (await this.names(address)) ?? [])
        if (isOwnFile(name)) await rm(path.join(directory, name), { force: true });
      await rmdir(directory).catch(notEmpty);
    });
  }

  async stranded(before: number, signal: AbortSignal): Promise<StrandedBackup[]> {
    const found: StrandedBackup[] = [];
    for await (const address of this.addresses()) {
      signal.throwIfAborted();
      const directory = path.join(this.root, addressPath(address));
      const names = await this.names(address);
      if (!names || names.includes(MANIFEST)) continue;
      if (!isAttemptId(address.id) || !names.every(isOwnFile)) continue;
      const since = await newest([directory, ...names.map((name) => path.join(directory, name))]);
      if (since === undefined || since >= before) continue;
      const remove = (until: AbortSignal) => this.remove(address, until);
      found.push({ name: directory, since: new Date(since), remove });
    }
    return found;
  }

  /** The directories `<type>/<source>/<id>`. */
  private async *addresses(): AsyncGenerator<BackupAddress> {
    for (const type of await directoriesIn(this.root))
      for (const source of await directoriesIn(path.join(this.root, type)))
        for (const id of await directoriesIn(path.join(this.root, type, source))) {
          const address = addressOf(type, source, id);
          if (address) yield address;
        }
  }

  /** The directory of a backup that is there. */
  private directory(address: BackupAddress): Promise<string> {
    return directoryWithin([this.root], path.join(this.root, addressPath(address)));
  }

  /** What lies in its directory; undefined if that is not there. */
  private names(address: BackupAddress): Promise<string[] | undefined> {
    const directory = path.join(this.root, addressPath(address));
    return reading(directory, () => readdir(directory).catch(absent));
  }

  /** Writes a file, into a directory that is there; it is not there under its name until it is durable. */
  private async put(
    address: BackupAddress,
    name: string,
    fill: (handle: FileHandle) => Promise<void>,
  ): Promise<void> {
    try {
      const directory = await this.directory(address);
      // What a killed worker left of it: beside a manifest nobody would look for that.
      for (const left of await readdir(directory))
        if (left.startsWith(name + PARTIAL) && isOwnFile(left))
          await rm(path.join(directory, left), { force: true });
      const partial = path.join(directory, `${name}${PARTIAL}${randomUUID()}`);
      await writeDurably(partial, fill);
      await rename(partial, path.join(directory, name));
      for (const up of ['.', '..', '../..', '../../..']) await sync(path.join(directory, up));
    } catch (error) {
      throw told(`${this.url}: ${name} could not be written`, error);
    }
  }
}

async function writeDurably(file: string, fill: (handle: FileHandle) => Promise<void>): Promise<void> {
  const handle = await open(file, 'wx', 0o600);
  try {
    await fill(handle);
    await handle.sync();
    await handle.close();
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(file, { force: true });
    throw error;
  }
}

async function sync(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function reading<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (isMissing) throw refused(`${what} is not there`, { cause: error });
    throw told(`${what} could not be read or removed`, error);
  }
}

/** What the file system says, as one of our errors. An abort's reason, and what came with the content, stay. */
function told(what: string, error: unknown): unknown {
  if (error instanceof OrchestratorError || !(error instanceof Error)) return error;
  return 'syscall' in error ? ofSystem(what, error as NodeJS.ErrnoException) : error;
}

async function newest(files: string[]): Promise<number | undefined> {
  const times = await Promise.all(files.map((file) => stat(file).then(({ mtimeMs }) => mtimeMs, absent)));
  const known = times.filter((time) => time !== undefined);
  return known.length > 0 ? Math.max(...known) : undefined;
}

async function directoriesIn(directory: string): Promise<string[]> {
  const list = () => readdir(directory, { withFileTypes: true }).catch(absent);
  const entries = await reading(directory, list);
  return (entries ?? []).filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error;
}

/** Something else lies there too, which stays. */
function notEmpty(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
}
