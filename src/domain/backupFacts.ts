/** What can be backed up. */
export const backupTypes = ['database', 'files', 'redis', 'storage'] as const;
export type BackupType = (typeof backupTypes)[number];

export const compressions = ['zstd', 'gzip', 'none'] as const;
export type Compression = (typeof compressions)[number];

/** The files of a backup: its content, and for a database also the roles and other globals of its server, as SQL. */
export type BackupFile = 'data' | 'globals';

/** Where one backup lies below its destination: `<type>/<source>/<id>/`. All three are safe as parts of a path. */
export interface BackupAddress {
  type: BackupType;
  /** The slug of the source's name. */
  source: string;
  id: string;
}

/** What a source says of that which was read. */
export interface SourceFacts {
  /** Of what was read, and of the programs that read it: `{ server: '16.4', pg_dump: '16.2' }`. */
  versions: Record<string, string>;
  /** database: the rows of each table (`schema.table`), counted in the dump's own snapshot. */
  rows?: Record<string, number>;
  /** files, storage: how many entries the tar has; database: how many its table of contents has. */
  entries?: number;
  /** What people should know, in sentences: no globals, files that changed while they were read. */
  notes: string[];
}

/** One file of a backup, verified. Sizes in bytes, sums in hex. */
export interface StoredFile {
  name: BackupFile;
  /** As it lies in the destination: compressed, perhaps encrypted. Read back from there. */
  size: number;
  sha256: string;
  /** As it was read from the source. */
  plainSize: number;
  plainSha256: string;
}

/** What was written to a destination and verified there. It becomes a backup by a manifest that holds it. */
export interface BackupContent extends SourceFacts {
  files: StoredFile[];
  compression: Compression;
  /** The age recipients (public keys) that it is encrypted to; none: it is not encrypted. */
  recipients: string[];
}
