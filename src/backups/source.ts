import type { Readable } from 'node:stream';
import type { BackupFile, BackupType, SourceFacts } from '../domain/backupFacts.ts';

/** Stores one file of the backup to its end. Rejects if the content or the storing failed. */
export type KeepFile = (file: BackupFile, content: Readable) => Promise<void>;

/** Something that can be backed up. Errors: `backup_failed` (another try may do), `backup_refused` (a definite no). */
export interface BackupSource {
  readonly type: BackupType;
  /** As it was asked for: `database`, `/var/lib/agents`, `s3/uploads`. */
  readonly name: string;
  /**
   * Gives each of its files to `keep`, one after the other, and says what was read. A content whose program or
   * connection failed ends with an error, never as if it were whole. An abort stops child processes and connections.
   */
  read(keep: KeepFile, signal: AbortSignal): Promise<SourceFacts>;
}
