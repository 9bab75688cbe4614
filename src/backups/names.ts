// What may be named: everything that comes from a task is checked here before it becomes a path, a key or an argument.
import { createHash } from 'node:crypto';
import { mkdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { type BackupAddress, backupTypes } from '../domain/backupFacts.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';

const MAX_NAME = 1024;
const SAFE_PART = /^[a-z0-9][a-z0-9._-]{0,127}$/i;

export const refused = (message: string, options?: ErrorOptions): OrchestratorError =>
  new OrchestratorError('backup_refused', message, options);

export const failed = (message: string, options?: ErrorOptions): OrchestratorError =>
  new OrchestratorError('backup_failed', message, options);

/** What is stored is not what was written. Another backup may be better; to read this one again is of no use. */
export class DamagedBackup extends OrchestratorError {
  constructor(message: string, options?: ErrorOptions) {
    super('backup_failed', message, options);
  }
}

/** What files, sockets and streams throw, as one of our errors; anything else as it is. */
export function asFailure(error: unknown): unknown {
  const ofSystem = error instanceof Error && !(error instanceof OrchestratorError) && 'code' in error;
  return ofSystem ? failed(describeError(error), { cause: error }) : error;
}

/** Refuses names that some program could take for something else. */
export function checkName(what: string, name: string): void {
  if (name === '' || name.length > MAX_NAME)
    throw refused(`the ${what}'s name is not 1 to ${MAX_NAME} characters long`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  if (/[\u0000-\u001f\u007f]/.test(name)) throw refused(`the ${what}'s name has a control character in it`);
  if (name.startsWith('-')) throw refused(`the ${what} ${JSON.stringify(name)} begins with "-"`);
}

/** A name as a part of a path: readable, and different for different names. */
export function sourceSlug(name: string): string {
  if (/^[a-z0-9][a-z0-9._-]{0,79}$/.test(name)) return name;
  const readable = name
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+/, '')
    .slice(-60)
    .replace(/^[^a-z0-9]+/, '');
  const sum = createHash('sha256').update(name).digest('hex').slice(0, 10);
  return readable === '' ? sum : `${readable}-${sum}`;
}

/** `<type>/<source>/<id>`; refuses an address that could lead elsewhere. */
export function addressPath({ type, source, id }: BackupAddress): string {
  for (const part of [type, source, id])
    if (!SAFE_PART.test(part)) throw refused(`${JSON.stringify(part)} is no part of a backup's address`);
  return `${type}/${source}/${id}`;
}

/** The parts of a path as an address; undefined if they are none. */
export function addressOf(type: string, source: string, id: string): BackupAddress | undefined {
  const known = backupTypes.find((one) => one === type);
  return known && [source, id].every((part) => SAFE_PART.test(part))
    ? { type: known, source, id }
    : undefined;
}

/** Whether `file` is `root` or lies below it; both absolute and without symbolic links. */
export const isWithin = (root: string, file: string): boolean =>
  file === root || file.startsWith(root.endsWith(path.sep) ? root : root + path.sep);

/**
 * The real path of a directory in or below one of the roots. With `create` it is made, unless something on the way
 * leads elsewhere.
 * @throws OrchestratorError backup_refused
 */
export async function directoryWithin(
  roots: string[],
  directory: string,
  { create = false } = {},
): Promise<string> {
  if (!path.isAbsolute(directory) || path.normalize(directory) !== directory)
    throw refused(`${JSON.stringify(directory)} is no absolute path, or not a plain one`);
  const allowed = await Promise.all(roots.map((root) => realRoot(root, directory)));
  const check = (real: string) => {
    if (!allowed.some((root) => root !== undefined && isWithin(root, real)))
      throw refused(`${directory} is not in or below an allowed directory`);
    return real;
  };
  if (create) {
    check(await nearestReal(directory));
    await mkdir(directory, { recursive: true, mode: 0o700 }).catch((error) => unusable(directory, error));
  }
  return check(await realpath(directory).catch((error) => unusable(directory, error)));
}

/** Undefined for one that is not there: others may be enough, unless `directory` should lie in this one. */
const realRoot = (root: string, directory: string): Promise<string | undefined> =>
  realpath(root).catch((error) => (isWithin(root, directory) ? unusable(root, error) : undefined));

/** Whether one of the two is, or lies in, the other. */
export const overlap = (one: string, other: string): boolean => isWithin(one, other) || isWithin(other, one);

/** The real path that `directory` will have: of the part that exists already, and the rest. */
async function nearestReal(directory: string): Promise<string> {
  try {
    return await realpath(directory);
  } catch (error) {
    const parent = path.dirname(directory);
    if (parent === directory) throw error;
    return path.join(await nearestReal(parent), path.basename(directory));
  }
}

function unusable(directory: string, error: NodeJS.ErrnoException): never {
  if (error.code === 'ENOENT') throw refused(`${directory} is not there`, { cause: error });
  throw ofSystem(`${directory} cannot be used`, error);
}

/** What asking again does not change. */
const DEFINITE = new Set([
  'EACCES',
  'EPERM',
  'EROFS',
  'ENOTDIR',
  'EISDIR',
  'EEXIST',
  'ELOOP',
  'ENAMETOOLONG',
]);

/** What the file system says, as one of our errors. */
export function ofSystem(what: string, cause: NodeJS.ErrnoException): OrchestratorError {
  const definite = DEFINITE.has(cause.code ?? '');
  return (definite ? refused : failed)(`${what}: ${cause.message}`, { cause });
}
