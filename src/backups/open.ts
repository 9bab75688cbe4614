// From the names in a task to what they stand for; all that is not allowed is refused here, before anything starts.
import { mkdir, realpath } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { BackupType } from '../domain/backupFacts.ts';
import { DatabaseSource } from './databaseSource.ts';
import type { BackupDestination } from './destination.ts';
import { FilesSource } from './filesSource.ts';
import { FilesystemDestination } from './filesystemDestination.ts';
import { checkName, directoryWithin, ofSystem, overlap, refused } from './names.ts';
import { RedisSource } from './redisSource.ts';
import { S3Destination } from './s3Destination.ts';
import type { BackupSettings } from './settings.ts';
import type { BackupSource } from './source.ts';
import { S3Source } from './storageSource.ts';

export { sourceSlug } from './names.ts';

/**
 * `name` is the name of a configured database or Redis, an absolute path, or a storage tier (`s3`, `s3/prefix`,
 * `filesystem`).
 * @throws OrchestratorError backup_refused
 */
export async function openSource(
  type: BackupType,
  name: string,
  settings: BackupSettings,
): Promise<BackupSource> {
  checkName('source', name);
  switch (type) {
    case 'database': {
      const url = configured('database', settings.databases, name);
      return new DatabaseSource({ name, url, binDir: settings.pgBinDir, tools: settings.databaseTools });
    }
    case 'redis':
      return new RedisSource(name, configured('Redis', settings.redis, name));
    case 'files':
      await directoryWithin(settings.fileRoots, name);
      return new FilesSource(name, settings.fileRoots);
    case 'storage':
      return storageSource(name, settings.tiers);
  }
}

/**
 * `file:///directory` in or below an allowed one, which is made if it is not there, or `s3://bucket/prefix` with an
 * allowed bucket.
 * @throws OrchestratorError backup_refused
 */
export async function openDestination(url: string, settings: BackupSettings): Promise<BackupDestination> {
  checkName('destination', url);
  const parsed = URL.parse(url);
  if (parsed?.search !== '' || parsed.hash !== '' || parsed.username !== '' || parsed.password !== '')
    throw refused('a destination is file:///directory or s3://bucket/prefix, and no more than that');
  const { roots, s3 } = settings.destinations;
  if (parsed.protocol === 'file:') {
    const directory = fileOf(parsed);
    return new FilesystemDestination(await directoryWithin(roots, directory, { create: true }));
  }
  if (parsed.protocol !== 's3:') throw refused(`a destination is file:// or s3://, not ${parsed.protocol}//`);
  if (!s3?.buckets.includes(parsed.hostname))
    throw refused(`the bucket ${JSON.stringify(parsed.hostname)} is not allowed for backups`);
  return new S3Destination(s3, parsed.hostname, prefixOf(parsed));
}

/**
 * Makes the directory of a `file://` destination that is to be there from now on, if all above it is there: what should
 * lie on a disk that is not mounted is not put in its place.
 * @throws OrchestratorError backup_refused, backup_failed
 */
export async function makeDestination(url: string): Promise<void> {
  const parsed = new URL(url);
  if (parsed.protocol !== 'file:') return;
  const directory = fileOf(parsed);
  await mkdir(directory, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw ofSystem(`${directory} cannot be made`, error);
  });
}

/**
 * Refuses a destination that lies in its own source, or around it: each backup would hold those before it. Nor may it be
 * mixed with the bytes that this service stores or spools.
 * @throws OrchestratorError backup_refused
 */
export async function requireApart(
  { type, source }: { type: BackupType; source: string },
  destination: BackupDestination,
  { tiers, destinations }: Pick<BackupSettings, 'tiers' | 'destinations'>,
): Promise<void> {
  const overlapping = (other: string) => refused(`${destination.url} lies in ${other}, or around it`);
  if (destination instanceof FilesystemDestination) {
    const others = type === 'files' ? [source] : [];
    for (const other of [...others, tiers.filesystem, ...(destinations.apart ?? [])])
      if (other && overlap(await realpath(other).catch(() => other), destination.root))
        throw overlapping(other);
  }
  if (destination instanceof S3Destination && type === 'storage' && source !== 'filesystem') {
    const read = `${tiers.s3?.bucket}/${source.slice('s3/'.length)}`;
    const written = `${destination.bucket}/${destination.prefix}`;
    if (read.startsWith(written) || written.startsWith(read)) throw overlapping(source);
  }
}

function storageSource(name: string, { s3, filesystem }: BackupSettings['tiers']): BackupSource {
  if (name === 'filesystem' && filesystem)
    return new FilesSource(filesystem, [filesystem], { type: 'storage', name });
  const [tier, ...prefix] = name.split('/');
  if (tier === 's3' && s3) return new S3Source(name, s3, prefix.join('/'));
  throw refused(
    `there is no storage tier ${JSON.stringify(name)} to back up: ${tierNames({ s3, filesystem })}`,
  );
}

const tierNames = ({ s3, filesystem }: { s3: unknown; filesystem: unknown }): string =>
  [s3 && 's3', filesystem && 'filesystem'].filter(Boolean).join(' and ') || 'none is configured';

function configured(what: string, known: Record<string, string>, name: string): string {
  const url = Object.hasOwn(known, name) ? known[name] : undefined;
  if (url !== undefined) return url;
  throw refused(`there is no ${what} ${JSON.stringify(name)} to back up: ${Object.keys(known).join(', ')}`);
}

function fileOf(url: URL): string {
  try {
    const directory = fileURLToPath(url);
    return directory.length > 1 ? directory.replace(/\/$/, '') : directory;
  } catch (error) {
    throw refused(`${url.href} names no directory of this machine`, { cause: error });
  }
}

/** As S3 shall see it: decoded, with a slash at its end. */
function prefixOf(url: URL): string {
  let path: string;
  try {
    path = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '');
  } catch (error) {
    throw refused(`${url.href} has a path that cannot be decoded`, { cause: error });
  }
  if (path.split('/').some((part) => part === '.' || part === '..'))
    throw refused(`${url.href} has "." or ".." in its path`);
  checkName('prefix', path === '' ? '/' : path);
  return path === '' ? '' : `${path}/`;
}
