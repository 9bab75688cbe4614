import type { Compression } from '../domain/backupFacts.ts';
import type { DatabaseTools } from './databaseSource.ts';

export interface S3Access {
  endpoint: string;
  accessKeyId: string;
  secretAccessKey: string;
}

/** What may be backed up, where it may go, and how. Nobody outside of it can name another database, path or bucket. */
export interface BackupSettings {
  /** URLs by the names that tasks use. */
  databases: Record<string, string>;
  redis: Record<string, string>;
  /** Trees may lie in or below these directories. */
  fileRoots: string[];
  /** What tasks of the type `storage` may name. */
  tiers: { s3?: S3Access & { bucket: string }; filesystem?: string };
  destinations: {
    /** Backups may lie in or below these directories. */
    roots: string[];
    /** None of these directories may lie in a destination, or around one. */
    apart?: string[];
    s3?: S3Access & { buckets: string[] };
  };
  /** Has pg_dump, pg_dumpall and pg_restore; undefined: the PATH has. */
  pgBinDir?: string;
  databaseTools: DatabaseTools;
  compression: Compression;
  /** age recipients, `age1…`; none: backups are not encrypted. */
  recipients: string[];
  /** `AGE-SECRET-KEY-…`, for restores. Backups need none. */
  identity?: string;
}
