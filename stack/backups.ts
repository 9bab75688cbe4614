// Where the embedded stack's backups go, and the programs that make them.
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { progress } from './cache.ts';
import { postgresClients } from './postgresClients.ts';
import type { Stack } from './stack.ts';

/**
 * The variables that give the stack's worker its daily backup and its weekly drill. None, with a sentence why, where
 * pg_dump cannot be had: everything else works without.
 */
export async function backupEnvironment(stack: Stack): Promise<Record<string, string>> {
  try {
    return {
      SA01_PG_BIN_DIR: await postgresClients(),
      SA01_BACKUP_DESTINATION: pathToFileURL(path.join(stack.directory, 'backups')).href,
      // A stack that somebody tries things on is off at night: old backups are no news there.
      SA01_BACKUP_MAX_AGE_HOURS: '100000',
    };
  } catch (error) {
    progress(`no backups: ${error instanceof Error ? error.message : error}`);
    return {};
  }
}
