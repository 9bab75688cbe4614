import type { Readable } from 'node:stream';
import type { BackupAddress, BackupFile } from '../domain/backupFacts.ts';

/**
 * A place for backups, `<root>/<type>/<source>/<id>/{data,globals,manifest.json,hold}`. The manifest is written last and
 * removed first: a directory without one is no backup. Anything else that lies there is nobody's business: it is neither
 * read nor removed.
 *
 * Errors: `backup_failed` (an outage, or full: another try may do), `backup_refused` (a definite no).
 */
export interface BackupDestination {
  /** `file:///…` or `s3://bucket/prefix`, without credentials. */
  readonly url: string;
  /** Streams one file there, durable when this returns. On a failure or an abort nothing has its name. */
  write(address: BackupAddress, file: BackupFile, content: Readable, signal: AbortSignal): Promise<void>;
  read(address: BackupAddress, file: BackupFile, signal: AbortSignal): Promise<Readable>;
  /** In bytes; undefined if it is not there. */
  size(address: BackupAddress, file: BackupFile, signal: AbortSignal): Promise<number | undefined>;
  /** Writes a note beside the files, which must be there, in place of an older one. */
  writeNote(address: BackupAddress, note: Note, text: string, signal: AbortSignal): Promise<void>;
  /** Undefined if it is not there. */
  readNote(address: BackupAddress, note: Note, signal: AbortSignal): Promise<string | undefined>;
  /** All that have a manifest, whatever that says; in no promised order. */
  list(signal: AbortSignal): AsyncIterable<BackupAddress>;
  /** Removes a backup or what there is of one, the manifest first. Does nothing if there is nothing. */
  remove(address: BackupAddress, signal: AbortSignal): Promise<void>;
  /** Files of tries without a manifest, all older than `before` (epoch ms); also what a write left that was killed. */
  stranded(before: number, signal: AbortSignal): Promise<StrandedBackup[]>;
}

/** The manifest makes a directory a backup. Why a person wants it kept stands in `hold`; empty: nobody does. */
export type Note = 'manifest.json' | 'hold';
export const MANIFEST = 'manifest.json';
export const HOLD = 'hold';

/** Marks a file that is being written. */
export const PARTIAL = '.partial-';
const OWN = new RegExp(`^(data|globals|manifest\\.json|hold)(\\${PARTIAL}[0-9a-f-]{36})?$`);

/** Whether a file beside a manifest is one of a backup's. */
export const isOwnFile = (name: string): boolean => OWN.test(name);

export interface StrandedBackup {
  /** For people. */
  name: string;
  /** When the newest of its files was written. */
  since: Date;
  remove(signal: AbortSignal): Promise<void>;
}
