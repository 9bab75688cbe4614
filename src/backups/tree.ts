// Reading a directory tree without ever leaving it.
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink, realpath } from 'node:fs/promises';
import path from 'node:path';
import { failed, isWithin, refused } from './names.ts';

export type TreeEntry =
  | { kind: 'directory'; name: string; file: string; stats: Stats }
  | { kind: 'file'; name: string; file: string; stats: Stats }
  | { kind: 'symlink'; name: string; file: string; stats: Stats; target: string }
  /** A socket, a pipe or a device. */
  | { kind: 'special'; name: string; file: string; stats: Stats };

/**
 * All below `root`, a directory before what is in it, sorted by name. What vanishes meanwhile is left out. A symbolic
 * link is never followed.
 * @throws OrchestratorError backup_refused for a link that leads out of the tree
 */
export async function* walk(root: string, below = ''): AsyncGenerator<TreeEntry> {
  for (const name of await namesIn(path.join(root, below))) {
    const relative = path.join(below, name);
    const entry = await describe(root, relative);
    if (!entry) continue;
    yield entry;
    if (entry.kind === 'directory') yield* walk(root, relative);
  }
}

async function namesIn(directory: string): Promise<string[]> {
  const utf8 = new TextDecoder('utf-8', { fatal: true });
  const names = await readdir(directory, { encoding: 'buffer' }).catch(vanished);
  return (names ?? [])
    .map((name) => {
      try {
        return utf8.decode(name);
      } catch {
        throw failed(`a name in ${directory} is not UTF-8`);
      }
    })
    .sort((a, b) => (a < b ? -1 : 1));
}

async function describe(root: string, name: string): Promise<TreeEntry | undefined> {
  const file = path.join(root, name);
  const stats = await lstat(file).catch(vanished);
  if (!stats) return undefined;
  const entry = { name, file, stats };
  if (stats.isDirectory()) return { kind: 'directory', ...entry };
  if (stats.isFile()) return { kind: 'file', ...entry };
  if (!stats.isSymbolicLink()) return { kind: 'special', ...entry };
  const target = await readlink(file).catch(vanished);
  if (target === undefined) return undefined;
  await requireInside(root, file, target);
  return { kind: 'symlink', ...entry, target };
}

/** A link may lead nowhere, but not out of the tree, by its text or by other links. */
async function requireInside(root: string, link: string, target: string): Promise<void> {
  const leadsTo = path.resolve(path.dirname(link), target);
  const real = await realpath(link).catch(() => leadsTo);
  if (path.isAbsolute(target) || !isWithin(root, leadsTo) || !isWithin(root, real))
    throw refused(`the symbolic link ${link} leads out of the tree, to ${target}`);
}

/**
 * Opens a file that `walk` saw, or the one that has replaced it since. Undefined if it has vanished, is no file any more,
 * or if it, or a directory on the way, is a link by now.
 */
export async function openSeen({ file }: TreeEntry): Promise<FileHandle | undefined> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error) => (error.code === 'ELOOP' ? undefined : vanished(error)),
  );
  if (!handle) return undefined;
  const opened = await handle.stat();
  // What is there now, without any link, must be what was opened.
  const isPlain = (await realpath(file).catch(vanished)) === file;
  const there = await lstat(file).catch(vanished);
  if (isPlain && opened.isFile() && there?.dev === opened.dev && there.ino === opened.ino) return handle;
  await handle.close();
  return undefined;
}

function vanished(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR')
    throw failed(`a file cannot be read: ${error.message}`, { cause: error });
}
