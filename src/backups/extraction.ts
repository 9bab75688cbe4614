import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { chmod, lstat, mkdir, readdir, realpath, rename, rm, symlink, utimes } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { extract, type Header } from 'tar-stream';
import { asFailure, failed, isWithin, refused } from './names.ts';

/**
 * Extracts a tar beside `directory` and then gives it that name. What is there already must be empty, unless
 * `overwrite`. Nothing is written outside, whatever the names and links in the archive. Returns its number of entries.
 * @throws OrchestratorError backup_refused
 */
export async function extractTree(tar: Readable, directory: string, overwrite: boolean): Promise<number> {
  const target = path.resolve(directory);
  const existing = await readdir(target).catch((error) => {
    if (error.code !== 'ENOENT')
      throw refused(`${target} cannot be used: ${error.message}`, { cause: error });
    return undefined;
  });
  if (existing && existing.length > 0 && !overwrite)
    throw refused(`${target} is not empty: it is overwritten only if that is asked for`);
  const partial = `${target}.partial-${randomUUID()}`;
  try {
    await mkdir(partial, { recursive: true, mode: 0o700 });
    const entries = await extractInto(tar, await realpath(partial));
    if (existing) await rename(target, `${partial}-old`);
    await rename(partial, target);
    return entries;
  } catch (error) {
    throw asFailure(error);
  } finally {
    tar.destroy();
    await rm(partial, { recursive: true, force: true });
    await rm(`${partial}-old`, { recursive: true, force: true });
  }
}

async function extractInto(tar: Readable, root: string): Promise<number> {
  const archive = extract();
  const reading = pipeline(tar, archive as unknown as NodeJS.WritableStream);
  reading.catch(() => {});
  const directories: { file: string; header: Header }[] = [];
  let entries = 0;
  for await (const entry of archive) {
    const { header } = entry;
    const file = await placeFor(root, header.name);
    entries++;
    if (header.type === 'directory') {
      await mkdir(file, { recursive: true, mode: 0o700 });
      directories.push({ file, header });
    } else if (header.type === 'symlink') await link(root, file, header.linkname ?? '');
    else if (header.type === 'file' || header.type === 'contiguous-file')
      await write(file, header, entry as AsyncIterable<Buffer>);
    else throw refused(`${header.name} is a ${header.type}, which no backup of ours has`);
    entry.resume();
  }
  await reading;
  // Last, because a directory may be read-only, and each entry in it changes its time.
  for (const { file, header } of directories.reverse()) await finish(file, header);
  return entries;
}

/** Where an entry goes; its directory is there, and no link leads out of the tree on the way. */
async function placeFor(root: string, name: string): Promise<string> {
  const parts = name.replace(/\/+$/, '').split('/');
  if (name.includes('\0') || parts.some((part) => part === '' || part === '.' || part === '..'))
    throw refused(`the archive has the name ${JSON.stringify(name)}, which could lead elsewhere`);
  const file = path.join(root, ...parts);
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

/** A name that comes again is the same file, read later: it replaces the earlier. */
async function write(file: string, header: Header, content: AsyncIterable<Uint8Array>): Promise<void> {
  const existing = await lstat(file).catch(() => undefined);
  if (existing?.isDirectory()) throw failed(`${header.name} is a file and a directory in the archive`);
  if (existing) await rm(file);
  await pipeline(content, createWriteStream(file, { flags: 'wx', mode: 0o600 }));
  await finish(file, header);
}

async function finish(file: string, { mode, mtime }: Header): Promise<void> {
  // No set-user-id and the like: who restores is not who owned it.
  if (mode !== undefined) await chmod(file, mode & 0o777);
  if (mtime) await utimes(file, mtime, mtime);
}
