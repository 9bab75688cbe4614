import type { Readable } from 'node:stream';
import type { BackupAddress, BackupFile } from '../domain/backupFacts.ts';

/**
 * A place for backups, `<root>/<type>/<source>/<id>/{data,globals,manifest.json}`. The manifest is written last and
 * removed first: a directory without one is no backup.
 *
 * Errors: `backup_failed` (an outage, or full: another try may do), `backup_refused` (a definite no).
 */
export interface BackupDestination {
  /** `file:///…` or `s3://bucket/prefix`, without credentials. */
  readonly url: string;
  /** Streams one file there, durable when this returns. On a failure or an abort nothing has its name. */
  write(address: BackupAddress, file: BackupFile, content: Readable, signal: AbortSignal): Promise<void>;
  read(address: BackupAddress, file: BackupFile, signal: AbortSignal): Promise<Readable>;
  /** Writes the manifest: from now on the backup exists. An existing one is never replaced by another. */
  commit(address: BackupAddress, manifest: string, signal: AbortSignal): Promise<void>;
  /** The manifest of one backup; undefined if there is no such backup. */
  manifest(address: BackupAddress, signal: AbortSignal): Promise<string | undefined>;
  /** All backups, by their manifests alone; in no promised order. */
  list(signal: AbortSignal): AsyncIterable<{ address: BackupAddress; manifest: string }>;
  /** Removes a backup or what there is of one, the manifest first. Does nothing if there is nothing. */
  remove(address: BackupAddress, signal: AbortSignal): Promise<void>;
  /** Files without a manifest, all older than `before` (epoch ms); also what a write left that was killed. */
  stranded(before: number, signal: AbortSignal): Promise<StrandedBackup[]>;
}

/** The name of the manifest, beside the files. */
export const MANIFEST = 'manifest.json';

export interface StrandedBackup {
  /** For people. */
  name: string;
  /** When the newest of its files was written. */
  since: Date;
  remove(signal: AbortSignal): Promise<void>;
}
