import { lstat, opendir, realpath, rm } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** A regular file that lies directly in the spool. */
export interface SpooledFile {
  /** As an upload refers to it. */
  ref: string;
  /** Without links. */
  path: string;
  /** When it was last written; epoch ms. */
  writtenAt: number;
}

const PORTION = 500;

/**
 * The spool's files that were last written before `before` (epoch ms), in portions. What lies in directories below
 * belongs to others.
 * @throws what the file system says if the spool is away
 */
export async function* oldSpoolFiles(spoolDir: string, before: number): AsyncGenerator<SpooledFile[]> {
  const root = await realpath(spoolDir);
  let portion: SpooledFile[] = [];
  for await (const entry of await opendir(root)) {
    const file = entry.isFile() ? await look(root, entry.name) : undefined;
    if (!file || file.writtenAt >= before) continue;
    portion.push(file);
    if (portion.length < PORTION) continue;
    yield portion;
    portion = [];
  }
  if (portion.length > 0) yield portion;
}

async function look(root: string, name: string): Promise<SpooledFile | undefined> {
  const file = path.join(root, name);
  const found = await unlessGone(lstat(file));
  return found?.isFile() ? { ref: `spool:${name}`, path: file, writtenAt: found.mtimeMs } : undefined;
}

/** Removes the file, unless it was written again since it was found. Whether it did. */
export async function removeSpooled({ path: file, writtenAt }: SpooledFile): Promise<boolean> {
  const found = await unlessGone(lstat(file));
  if (!found?.isFile() || found.mtimeMs !== writtenAt) return false;
  await rm(file, { force: true });
  return true;
}

/**
 * The files that these references lead to, as far as they are `file:` ones, without links; those that lead nowhere are
 * left out. Of one that cannot be looked at (too long, forbidden, a circle) the path itself counts: no reference keeps the
 * spool from being swept.
 */
export async function filesBehind(refs: string[]): Promise<Set<string>> {
  const files = new Set<string>();
  for (const ref of refs) {
    const file = pathOf(ref);
    const found = file && (await unlessGone(realpath(file)).catch(() => path.resolve(file)));
    if (found) files.add(found);
  }
  return files;
}

function pathOf(ref: string): string | undefined {
  try {
    return fileURLToPath(ref);
  } catch {
    return undefined;
  }
}

async function unlessGone<T>(look: Promise<T>): Promise<T | undefined> {
  try {
    return await look;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
