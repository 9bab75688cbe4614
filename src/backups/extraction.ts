import { randomUUID } from 'node:crypto';
import { createWriteStream, type Stats } from 'node:fs';
import {
  chmod,
  lchown,
  lstat,
  mkdir,
  readdir,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  utimes,
} from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { extract, type Header } from 'tar-stream';
import { entryParts } from './entryNames.ts';
import { asFailure, DamagedBackup, failed, isWithin, ofSystem, refused } from './names.ts';

export interface Extraction {
  overwrite?: boolean;
  /** The number of entries, if that is known. */
  expected?: number;
  /** All belongs to who extracts. Else root gives each entry to its owner in the archive; nobody else can. */
  withoutOwners?: boolean;
}

/**
 * Extracts a tar beside `directory` and then gives it that name. What is there already must be empty, unless
 * `overwrite`; it goes only when the new tree is in its place, which has its mode and owner then. Nothing is written
 * outside, whatever the names and links in the archive. Returns its number of entries, which must be `expected`.
 * @throws OrchestratorError backup_refused, backup_failed
 */
export async function extractTree(
  tar: Readable,
  directory: string,
  { overwrite = false, expected, withoutOwners = false }: Extraction = {},
): Promise<number> {
  const target = await realpath(directory).catch(() => path.resolve(directory));
  const partial = `${target}.partial-${randomUUID()}`;
  const setOwner = withoutOwners || process.getuid?.() !== 0 ? nobody : giveTo;
  try {
    const there = await standing(target, overwrite);
    await mkdir(partial, { recursive: true, mode: 0o700 });
    const entries = await extractInto(tar, await realpath(partial), setOwner);
    if (expected !== undefined && entries !== expected)
      throw new DamagedBackup(`the archive has ${entries} entries instead of ${expected}`);
    if (there) {
      await setOwner(partial, there.stats);
      await chmod(partial, there.stats.mode & 0o7777);
    }
    if (there && !there.isEmpty) await exchange(partial, target);
    else await rename(partial, target);
    return entries;
  } catch (error) {
    throw asFailure(error);
  } finally {
    tar.destroy();
    await rm(partial, { recursive: true, force: true });
  }
}

/** The directory that is there, if it may be replaced. An empty one has not to go first: a rename replaces it. */
async function standing(
  target: string,
  overwrite: boolean,
): Promise<{ stats: Stats; isEmpty: boolean } | undefined> {
  const stats = await stat(target).catch((error) => {
    if (error.code !== 'ENOENT') throw unusable(target, error);
    return undefined;
  });
  if (!stats) return undefined;
  const names = await readdir(target).catch((error) => {
    throw unusable(target, error);
  });
  if (stats.dev !== (await stat(path.dirname(target))).dev)
    throw refused(`${target} is where something is mounted, which cannot be replaced: restore below it`);
  if (names.length > 0 && !overwrite)
    throw refused(`${target} is not empty: it is overwritten only if that is asked for`);
  return { stats, isEmpty: names.length === 0 };
}

const unusable = (target: string, cause: Error): Error =>
  refused(`${target} cannot be used: ${cause.message}`, { cause });

/** Puts the new tree in the place of the old, which is removed after that, or put back. */
async function exchange(partial: string, target: string): Promise<void> {
  const old = `${partial}-old`;
  await rename(target, old);
  await rename(partial, target).catch(async (cause) => {
    await rename(old, target).catch(() => {
      throw failed(`${target} could not be replaced, and what was there is ${old} now`, { cause });
    });
    throw cause;
  });
  await rm(old, { recursive: true, force: true });
}

/** Sets the owner of what lies there, be it a link. */
type SetOwner = (file: string, owner: Owner) => Promise<void>;
type Owner = Pick<Header, 'uid' | 'gid'> & { pax?: unknown };

const nobody: SetOwner = async () => {};

/** By numbers, which is all that a backup knows. */
async function giveTo(file: string, { uid, gid, pax }: Owner): Promise<void> {
  // Large numbers have no room in a plain header.
  const large = (pax ?? {}) as { uid?: string; gid?: string };
  const [user, group] = [Number(large.uid ?? uid), Number(large.gid ?? gid)];
  await lchown(file, user, group).catch((cause) => {
    throw ofSystem(`${file} cannot be given to ${user}:${group}, as the backup wants`, cause);
  });
}

async function extractInto(tar: Readable, root: string, setOwner: SetOwner): Promise<number> {
  const archive = extract();
  const reading = pipeline(tar, archive as unknown as NodeJS.WritableStream);
  reading.catch(() => {});
  const directories: { file: string; header: Header }[] = [];
  const links: string[] = [];
  let entries = 0;
  for await (const entry of archive) {
    const { header } = entry;
    const file = await placeFor(root, header.name);
    entries++;
    if (header.type === 'directory') {
      await requireReal(root, file);
      await mkdir(file, { recursive: true, mode: 0o700 });
      directories.push({ file, header });
    } else if (header.type === 'symlink') {
      await link(root, file, header.linkname ?? '');
      await setOwner(file, header);
      links.push(file);
    } else if (header.type === 'file' || header.type === 'contiguous-file') {
      await write(file, header, entry as AsyncIterable<Buffer>);
      await setOwner(file, header);
      await finish(file, header);
    } else throw refused(`${header.name} is a ${header.type}, which no backup of ours has`);
    entry.resume();
  }
  await reading;
  for (const file of links) await requireInside(root, file);
  // Last, because a directory may be read-only, and each entry in it changes its time.
  for (const { file, header } of directories.reverse()) {
    await setOwner(file, header);
    await finish(file, header);
  }
  return entries;
}

/** Where an entry goes; its directory is there, and no link leads out of the tree on the way. */
async function placeFor(root: string, name: string): Promise<string> {
  const file = path.join(root, ...entryParts(name));
  const parent = path.dirname(file);
  await requireReal(root, parent);
  await mkdir(parent, { recursive: true, mode: 0o700 });
  return file;
}

/** What exists of the way to `directory` must be directories, not links. */
async function requireReal(root: string, directory: string): Promise<void> {
  for (let at = directory; at !== root; at = path.dirname(at)) {
    const found = await lstat(at).catch(() => undefined);
    if (found && !found.isDirectory())
      throw refused(`the archive has something below ${path.relative(root, at)}, which is no directory`);
  }
}

async function link(root: string, file: string, target: string): Promise<void> {
  const leadsTo = path.resolve(path.dirname(file), target);
  if (path.isAbsolute(target) || target.includes('\0') || !isWithin(root, leadsTo))
    throw refused(`the archive has a link to ${JSON.stringify(target)}, which leads out of the tree`);
  await rm(file, { force: true });
  await symlink(target, file);
}

/** By its text a link stayed within the tree; by way of other links it may lead out of it all the same. */
async function requireInside(root: string, file: string): Promise<void> {
  const real = await realpath(file).catch(() => root);
  if (!isWithin(root, real))
    throw refused(`the archive has a link ${path.relative(root, file)}, which leads out of the tree`);
}

/** A name that comes again is the same file, read later: it replaces the earlier. */
async function write(file: string, header: Header, content: AsyncIterable<Uint8Array>): Promise<void> {
  const existing = await lstat(file).catch(() => undefined);
  if (existing?.isDirectory()) throw failed(`${header.name} is a file and a directory in the archive`);
  if (existing) await rm(file);
  await pipeline(content, createWriteStream(file, { flags: 'wx', mode: 0o600 }));
}

async function finish(file: string, { mode, mtime }: Header): Promise<void> {
  // No set-user-id and the like: an archive shall not hand out rights.
  if (mode !== undefined) await chmod(file, mode & 0o777);
  if (mtime) await utimes(file, mtime, mtime);
}
