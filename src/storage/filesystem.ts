import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, mkdir, open, readdir, realpath, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import type { ByteSource } from './byteSource.ts';
import { digestOf, isSame, promisedBytes } from './digest.ts';
import {
  brokenCopy,
  bytesOf,
  checkKey,
  type Diagnosis,
  inPlace,
  noCopy,
  type Place,
  type StorageCode,
  takenKey,
} from './failures.ts';
import { leaveBehind, unlessHanging } from './hanging.ts';
import type { StorageTier, StoredCopy, StoredFacts, StrandedUpload } from './tier.ts';

const FOLDER = 'uploads';
const PARTIAL = /^\.[0-9a-f]{64}\.[0-9a-f]+\.partial$/;
const SHARD = /^[0-9a-f]{2}$/;

/**
 * Files `uploads/<first two digits>/<key>` below a root that has to exist: where a volume is not mounted, nothing is
 * written into the directory below it unless somebody has made that on purpose.
 *
 *     .<key>.<random>.partial --written, fsync, read back--> link to <key> --directory fsync--> stored
 *                                                                |
 *                                                                +-- <key> is there: that one is read and compared
 *
 * A link never replaces a file, so of several at once one wins. Reading back finds what the kernel holds, which may not
 * be what the disk will give after a restart. Nothing can call back a file operation on a mount that hangs: while two hang,
 * no other is begun.
 */
export class FilesystemTier implements StorageTier {
  readonly name = 'filesystem';
  private readonly root: string;
  private readonly place: Place;

  constructor(root: string) {
    this.root = path.resolve(root);
    this.place = { title: `Directory ${this.root}`, diagnose: diagnoseFilesystem };
  }

  store(key: string, openSource: () => Promise<ByteSource>, facts: StoredFacts, signal: AbortSignal) {
    checkKey(key);
    return this.onRoot(signal, async () => {
      const directory = await this.makeDirectory(key);
      const file = path.join(directory, key);
      if (!(await this.hasBytes(file, facts, signal))) {
        const partial = path.join(directory, `.${key}.${randomBytes(8).toString('hex')}.partial`);
        try {
          await write(partial, promisedBytes(openSource, facts, signal));
          await this.settle(partial, file, facts, signal);
        } finally {
          await rm(partial, { force: true });
        }
      }
      // Of a file that another has just linked, too: what is told has to outlast a restart.
      await sync(directory);
      return this.copy(file);
    });
  }

  verify(key: string, facts: StoredFacts, signal: AbortSignal) {
    checkKey(key);
    return this.onRoot(signal, async () => {
      const file = await this.locate(key);
      const found = await this.digest(file, signal);
      if (!found) return undefined;
      if (!isSame(found, facts)) throw brokenCopy(this.place, file, 'reads back as other bytes');
      return this.copy(file);
    });
  }

  read(key: string, signal: AbortSignal) {
    checkKey(key);
    return this.onRoot(signal, async () => {
      const file = await this.locate(key);
      const handle = await openFile(file);
      if (!handle) throw noCopy(this.place, file);
      const bytes = handle.createReadStream({ signal });
      const closed = new Promise<void>((resolve) => bytes.once('close', resolve));
      // When its reader has gone, it may still wait for the disk.
      return bytesOf(this.place, bytes).once('close', () => leaveBehind(this.root, closed));
    });
  }

  remove(key: string, signal: AbortSignal) {
    checkKey(key);
    return this.onRoot(signal, async () => {
      const file = await this.locate(key);
      if (!(await unlessMissing(stat(file)))) return;
      await rm(file, { force: true });
      await sync(path.dirname(file));
    });
  }

  stranded(before: number, signal: AbortSignal) {
    return this.onRoot(signal, async () => {
      const uploads = path.join(await this.checkRoot(), FOLDER);
      const found: StrandedUpload[] = [];
      for (const shard of (await names(uploads)).filter((name) => SHARD.test(name))) {
        for (const name of (await names(path.join(uploads, shard))).filter((name) => PARTIAL.test(name))) {
          signal.throwIfAborted();
          const upload = await this.strandedFile(path.join(uploads, shard, name));
          if (upload && upload.since.getTime() < before) found.push(upload);
        }
      }
      return found;
    });
  }

  private onRoot<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return inPlace(this.place, signal, () => unlessHanging(this.root, signal, work));
  }

  /** Since when nothing has been written to it; undefined if it is gone by now. */
  private async strandedFile(file: string): Promise<StrandedUpload | undefined> {
    const found = await unlessMissing(stat(file));
    return (
      found && {
        name: file,
        since: found.mtime,
        remove: (signal) => this.onRoot(signal, () => rm(file, { force: true })),
      }
    );
  }

  /** Gives the whole file its name, if no other has that. @throws OrchestratorError upload_corrupt, upload_refused */
  private async settle(partial: string, file: string, facts: StoredFacts, signal: AbortSignal) {
    const written = await this.digest(partial, signal);
    if (!written || !isSame(written, facts))
      throw brokenCopy(this.place, partial, 'reads back as other bytes');
    try {
      await link(partial, file);
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') throw error;
      if (!(await this.hasBytes(file, facts, signal)))
        throw new OrchestratorError(
          'storage_unavailable',
          `${this.place.title}: ${file} was removed meanwhile.`,
        );
    }
  }

  /** @throws OrchestratorError upload_refused: it is there with others */
  private async hasBytes(file: string, facts: StoredFacts, signal: AbortSignal): Promise<boolean> {
    const found = await this.digest(file, signal);
    if (found && !isSame(found, facts)) throw takenKey(this.place, file);
    return found !== undefined;
  }

  private async digest(file: string, signal: AbortSignal) {
    const handle = await openFile(file);
    return handle && digestOf(handle.createReadStream({ signal, highWaterMark: 256 * 1024 }));
  }

  /** A root that is missing is an outage; below it, what is missing is an answer. */
  private async locate(key: string): Promise<string> {
    return path.join(await this.checkRoot(), FOLDER, shardOf(key), key);
  }

  private async checkRoot(): Promise<string> {
    const root = await realpath(this.root);
    if ((await stat(root)).isDirectory()) return root;
    throw new OrchestratorError('storage_refused', `${this.place.title}: it is not a directory.`);
  }

  /** Only what is below the root is made, and only if no link leads elsewhere. */
  private async makeDirectory(key: string): Promise<string> {
    const root = await this.checkRoot();
    const uploads = path.join(root, FOLDER);
    const directory = path.join(uploads, shardOf(key));
    if (await made(uploads)) await sync(root);
    if (await made(directory)) await sync(uploads);
    if ((await realpath(directory)) !== directory)
      throw new OrchestratorError('storage_refused', `${this.place.title}: ${directory} is a link.`);
    return directory;
  }

  private copy(file: string): StoredCopy {
    return {
      location: pathToFileURL(file).href,
      durability: `${this.place.title}: written through to this one disk (fsync)`,
    };
  }
}

const shardOf = (key: string): string => key.slice(0, 2);

async function write(file: string, bytes: AsyncIterable<Buffer>): Promise<void> {
  const handle = await open(file, 'wx', 0o600);
  try {
    for await (const chunk of bytes) await handle.writeFile(chunk);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** What a directory lists survives a loss of power only after this. */
async function sync(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** What is there, if it is no link. */
const openFile = (file: string): Promise<FileHandle | undefined> =>
  unlessMissing(open(file, constants.O_RDONLY | constants.O_NOFOLLOW));

/** Whether it was not there. */
async function made(directory: string): Promise<boolean> {
  try {
    await mkdir(directory, 0o700);
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false;
    throw error;
  }
}

const names = async (directory: string): Promise<string[]> => (await unlessMissing(readdir(directory))) ?? [];

async function unlessMissing<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Somebody has to make room, or to give a right; all else, as EIO or a root that is missing, may pass. */
const REFUSALS = [
  'ENOSPC',
  'EDQUOT',
  'EFBIG',
  'EROFS',
  'EACCES',
  'EPERM',
  'ENOTDIR',
  'ELOOP',
  'ENOTSUP',
  'EOPNOTSUPP',
];

function diagnoseFilesystem(error: unknown): Diagnosis {
  const code: StorageCode = REFUSALS.includes(errorCode(error) ?? '')
    ? 'storage_refused'
    : 'storage_unavailable';
  return { code, reason: describeError(error) };
}

const errorCode = (error: unknown): string | undefined => (error as NodeJS.ErrnoException | undefined)?.code;
