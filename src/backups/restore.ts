// Back from a backup. Everything is verified in the destination before the target is touched.

import { randomUUID } from 'node:crypto';
import { open, rename, rm, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { BackupAddress, BackupContent, BackupFile, StoredFile } from '../domain/backupFacts.ts';
import { OrchestratorError } from '../domain/errors.ts';
import { checked, decryption, Meter } from './coding.ts';
import type { BackupDestination } from './destination.ts';
import { type Extraction, extractTree } from './extraction.ts';
import { asFailure, refused } from './names.ts';
import { openPlain } from './plain.ts';
import { RunningProgram, requireAtLeast, versionOf } from './programs.ts';
import type { BackupSettings } from './settings.ts';

/** A backup to restore, as its manifest describes it. */
export interface RestoreOrder {
  destination: BackupDestination;
  address: BackupAddress;
  content: BackupContent;
  settings: Pick<BackupSettings, 'identity' | 'pgBinDir' | 'databaseTools'>;
  /** Hears the stored bytes so far. */
  onProgress?: (progress: { stage: 'verifying' | 'restoring'; bytes: number }) => void;
}

/** Whether something that is there already may be replaced. */
export interface Overwriting {
  overwrite?: boolean;
}

export interface DatabaseTarget extends Overwriting {
  /** The URL of an existing database. It must be empty, unless `overwrite`: then what is in both is dropped first. */
  url: string;
  /** Leaves out owners and rights, for a role that may not set them: scratch databases. */
  withoutOwners?: boolean;
  /** Leaves out publications and subscriptions; a database with a subscription cannot be dropped. */
  withoutReplication?: boolean;
}

/**
 * Restores a database in one transaction: all or nothing.
 * @throws OrchestratorError backup_failed, backup_refused (not empty, no key, a server or program too old),
 *   postgres_unavailable, postgres_refused
 */
export async function restoreDatabase(
  order: RestoreOrder,
  target: DatabaseTarget,
  signal: AbortSignal,
): Promise<void> {
  const { settings, content, address } = order;
  if (address.type !== 'database') throw refused('this is no backup of a database');
  const binDir = settings.pgBinDir;
  const version = await versionOf('pg_restore', binDir, signal);
  requireAtLeast('pg_restore', version, 'the dump', content.versions.pg_dump ?? version);
  if (!target.overwrite && !(await settings.databaseTools.isEmptyDatabase(target.url)))
    throw refused('the database is not empty: it is overwritten only if that is asked for');
  await verifyStored(order, 'data', signal);
  const args = ['--exit-on-error', '--single-transaction', '--no-password', intoDatabase(target.url)];
  if (target.overwrite) args.push('--clean', '--if-exists');
  if (target.withoutOwners) args.push('--no-owner', '--no-privileges');
  if (target.withoutReplication) args.push('--no-publications', '--no-subscriptions');
  const running = new RunningProgram({ program: 'pg_restore', args, url: target.url, binDir, signal });
  const said = running.text();
  said.catch(() => {});
  try {
    await pipeline(await openRestored(order, 'data', signal), running.stdin, { signal });
  } catch (error) {
    // Where not the backup broke, the program did, and its own words say why.
    if (!(error instanceof OrchestratorError) && !signal.aborted) await running.ended;
    running.stop();
    signal.throwIfAborted();
    throw error;
  }
  await said;
}

/**
 * Restores a directory tree beside `directory` and then puts it in its place; one that is there already must be empty,
 * unless `overwrite`. Owners are those of the backup if root restores, unless `withoutOwners`. Returns the entries.
 * @throws OrchestratorError backup_failed, backup_refused (also for an archive that would write outside of it)
 */
export async function restoreTree(
  order: RestoreOrder,
  target: Pick<Extraction, 'overwrite' | 'withoutOwners'> & { directory: string },
  signal: AbortSignal,
): Promise<{ entries: number }> {
  if (order.address.type !== 'files' && order.address.type !== 'storage')
    throw refused('this is no backup of a directory or of a storage tier');
  await verifyStored(order, 'data', signal);
  const tar = await openRestored(order, 'data', signal);
  const { directory, ...how } = target;
  const expected = order.content.entries;
  return {
    entries: await extractTree(tar, directory, { ...how, ...(expected !== undefined && { expected }) }),
  };
}

/** Restores any file of a backup as it is: a Redis dump, or the roles of a database's server. Errors as above. */
export async function restoreFile(
  order: RestoreOrder,
  { name = 'data', file, overwrite = false }: Overwriting & { name?: BackupFile; file: string },
  signal: AbortSignal,
): Promise<void> {
  if (!overwrite && (await stat(file).catch(() => undefined)))
    throw refused(`${file} is there already: it is overwritten only if that is asked for`);
  await verifyStored(order, name, signal);
  const partial = `${file}.partial-${randomUUID()}`;
  try {
    const handle = await open(partial, 'wx', 0o600);
    await pipeline(await openRestored(order, name, signal), handle.createWriteStream({ flush: true }), {
      signal,
    });
    await rename(partial, file);
  } catch (error) {
    await rm(partial, { force: true });
    signal.throwIfAborted();
    throw asFailure(error);
  }
}

/** Reads the stored bytes once and compares them with the manifest, so that no target is touched for a bad backup. */
async function verifyStored(order: RestoreOrder, name: BackupFile, signal: AbortSignal): Promise<void> {
  const { destination, address, settings } = order;
  // A missing key is told before anything is read.
  decryption(order.content.recipients, settings.identity);
  const content = await destination.read(address, name, signal);
  const watch = (bytes: number) => order.onProgress?.({ stage: 'verifying', bytes });
  const drain = async (bytes: AsyncIterable<Uint8Array>) => {
    for await (const _ of bytes);
  };
  const check = checked(`the stored file ${name}`, fileOf(order, name));
  await pipeline(content, new Meter().stage(watch), check, drain, { signal }).catch((error) => {
    signal.throwIfAborted();
    throw asFailure(error);
  });
}

function openRestored(order: RestoreOrder, name: BackupFile, signal: AbortSignal): Promise<Readable> {
  const { destination, address, content } = order;
  const settings = { ...content, ...order.settings };
  const watch = (bytes: number) => order.onProgress?.({ stage: 'restoring', bytes });
  return openPlain({ destination, address, file: fileOf(order, name), settings, watch }, signal);
}

function fileOf({ content }: RestoreOrder, name: BackupFile): StoredFile {
  const file = content.files.find((one) => one.name === name);
  if (!file) throw refused(`the backup has no file ${name}`);
  return file;
}

/** `--dbname` takes a connection string, in which any name can be said exactly; everything else is in the environment. */
function intoDatabase(url: string): string {
  const name = decodeURIComponent(new URL(url).pathname.slice(1));
  return `--dbname=dbname='${name.replace(/[\\']/g, '\\$&')}'`;
}
