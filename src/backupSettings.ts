import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { BackupSettings } from './backups/settings.ts';
import { type Config, ConfigError, shown } from './config.ts';
import { countRows, holdSnapshot, isEmptyDatabase } from './database/backupSnapshot.ts';

/** The database that this service itself works on, by the name that tasks and Schedules call it by. */
export const ownDatabase = ({ databaseUrl }: Pick<Config, 'databaseUrl'>): string =>
  decodeURIComponent(new URL(databaseUrl).pathname.slice(1));

/**
 * What may be backed up, and where to, by this process's configuration: its database, its Redis, its storage tiers, the
 * trees below SA01_BACKUP_ROOTS; to there, to SA01_BACKUP_DESTINATION and what is below it, and to the configured buckets.
 * @throws ConfigError if the file with the identity cannot be read
 */
export function backupSettings(config: Config): BackupSettings {
  const { backupDestination, s3, storageDir, spoolDir, databaseUrl, redisUrl } = config;
  const { roots, recipients, identityFile, pgBinDir } = config.backups;
  const destination = backupDestination ? new URL(backupDestination) : undefined;
  const own = destination?.protocol === 'file:' ? [fileURLToPath(destination).replace(/(.)\/$/, '$1')] : [];
  const bucket = destination?.protocol === 's3:' ? [destination.hostname] : [];
  return {
    databases: { [ownDatabase(config)]: databaseUrl },
    redis: { redis: redisUrl },
    fileRoots: roots,
    tiers: { ...(s3 && { s3 }), ...(storageDir && { filesystem: storageDir }) },
    destinations: {
      roots: [...own, ...roots],
      ...(spoolDir && { apart: [spoolDir] }),
      ...(s3 && { s3: { ...s3, buckets: [...new Set([...bucket, s3.bucket])] } }),
    },
    databaseTools: { countRows, holdSnapshot, isEmptyDatabase },
    compression: 'zstd',
    recipients,
    ...(pgBinDir && { pgBinDir }),
    ...(identityFile && { identity: readIdentity(identityFile) }),
  };
}

/** The first identity of a file as `age-keygen` writes it. */
function readIdentity(file: string): string {
  const unusable = (why: string) => new ConfigError([`SA01_BACKUP_IDENTITY_FILE is ${shown(file)}: ${why}.`]);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    // Its message repeats the name.
    throw unusable(`it cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
  const identity = text.split('\n').find((line) => line.startsWith('AGE-SECRET-KEY-'));
  if (identity) return identity.trim();
  throw unusable('no AGE-SECRET-KEY-… stands in it');
}
