import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { commitManifest } from '../../src/backups/commit.ts';
import type { BackupDestination } from '../../src/backups/destination.ts';
import { makeBackup } from '../../src/backups/make.ts';
import { openDestination, openSource, sourceSlug } from '../../src/backups/open.ts';
import type { BackupSettings } from '../../src/backups/settings.ts';
import { countRows, holdSnapshot, isEmptyDatabase } from '../../src/database/backupSnapshot.ts';
import type { BackupAddress, BackupContent, BackupType } from '../../src/domain/backupFacts.ts';
import { attemptId, backupId } from '../../src/domain/backups.ts';
import { postgresClients } from '../../stack/postgresClients.ts';
import { testStack } from './stack.ts';

export const never = new AbortController().signal;

/** A place for one test's backups, and for what is backed up, gone at the end. */
export interface BackupPlace extends AsyncDisposable {
  /** Below it: `sources`, where trees may lie, and `backups`, where backups may. */
  directory: string;
  settings: BackupSettings;
  destination: BackupDestination;
}

export async function backupPlace(changes: Partial<BackupSettings> = {}): Promise<BackupPlace> {
  const directory = await realpath(await mkdtemp(path.join(tmpdir(), 'backups-')));
  const sources = path.join(directory, 'sources');
  const backups = path.join(directory, 'backups');
  for (const made of [sources, backups]) await mkdir(made);
  const env = testStack().env();
  const s3 = {
    endpoint: env.SA01_S3_ENDPOINT!,
    accessKeyId: env.AWS_ACCESS_KEY_ID!,
    secretAccessKey: env.AWS_SECRET_ACCESS_KEY!,
  };
  const bucket = env.SA01_S3_BUCKET!;
  const settings: BackupSettings = {
    databases: {},
    redis: {},
    fileRoots: [sources],
    tiers: { s3: { ...s3, bucket } },
    destinations: { roots: [backups], s3: { ...s3, buckets: [bucket] } },
    pgBinDir: await postgresClients(),
    databaseTools: { countRows, holdSnapshot, isEmptyDatabase },
    compression: 'zstd',
    recipients: [],
    ...changes,
  };
  const destination = await openDestination(pathToFileURL(backups).href, settings);
  return {
    directory,
    settings,
    destination,
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}

export const newAddress = (type: BackupType, name: string): BackupAddress => ({
  type,
  source: sourceSlug(name),
  id: attemptId(backupId(new Date().toISOString(), randomUUID()), 1),
});

export interface Made {
  address: BackupAddress;
  content: BackupContent;
}

export interface MakingOptions {
  destination?: BackupDestination;
  signal?: AbortSignal;
  onProgress?: (progress: { stage: string; bytes: number }) => void;
  address?: BackupAddress;
}

/** Makes a backup and commits it, with its content as manifest. */
export async function backUp(
  place: Pick<BackupPlace, 'settings' | 'destination'>,
  type: BackupType,
  name: string,
  options: MakingOptions = {},
): Promise<Made> {
  const { settings } = place;
  const { destination = place.destination, signal = never, onProgress } = options;
  const address = options.address ?? newAddress(type, name);
  const source = await openSource(type, name, settings);
  const order = { source, destination, address, settings };
  const content = await makeBackup(order, { signal, ...(onProgress && { onProgress }) });
  const written = { manifest: JSON.stringify({ address, content }), files: content.files };
  await commitManifest(destination, address, written, signal);
  return { address, content };
}

/** What is in a destination, by its manifests. */
export async function catalogue(destination: BackupDestination): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of destination.list(never)) ids.push(id);
  return ids.sort();
}

export const strandedIn = (destination: BackupDestination) =>
  destination.stranded(Date.now() + 60_000, never);
