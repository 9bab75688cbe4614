import { freshnessFaults } from '../domain/backupFreshness.ts';
import { readBackupTimes } from './backups.ts';
import type { Queryable } from './postgres.ts';
import { overOwnConnection } from './probe.ts';

/** The database whose backups are judged, by the name that tasks call it, and how old the newest good one may be. */
export interface JudgedBackups {
  source: string;
  maxAgeHours: number;
}

/** What the health component backup_service makes of the catalogue that `url` leads to. */
export const probeBackups = (
  { url, ...judged }: JudgedBackups & { url: string },
  signal: AbortSignal,
): Promise<{ atLeast: 'moderate'; error: string } | undefined> =>
  overOwnConnection(url, signal, (client) => judgeBackups(client, judged));

/**
 * Well, or at least moderate where the newest verified backup is older than `maxAgeHours`, or the last run or the last
 * drill failed. Before there are any they are as old as the catalogue itself. Times are compared by Postgres's clock.
 * @throws what Postgres throws
 */
export async function judgeBackups(
  client: Queryable,
  { source, maxAgeHours }: JudgedBackups,
): Promise<{ atLeast: 'moderate'; error: string } | undefined> {
  const { rows } = await client.query<{ now: Date; since: Date | null }>(
    `SELECT now(), (SELECT run_on FROM orchestrator.migration WHERE name = '0009_backups') AS since`,
  );
  const now = rows[0]!.now.getTime();
  const since = rows[0]!.since?.getTime() ?? now;
  const times = (await readBackupTimes(client)).filter(
    (one) => one.type === 'database' && one.source === source,
  );
  const faults = freshnessFaults(source, times, { now, maxAgeHours, since });
  return faults.length > 0 ? { atLeast: 'moderate', error: faults.join('; ') } : undefined;
}
