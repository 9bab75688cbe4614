import { freshnessFaults } from '../domain/backupFreshness.ts';
import { readBackupTimes } from './backups.ts';
import type { Queryable } from './postgres.ts';

/**
 * What the health component backup_service makes of the backups of `source`, a database: up, and at least moderate where
 * the last good one is older than `maxAgeHours`, or the last run or the last drill failed. Before there are any they are
 * as old as the catalogue itself. Times are compared by Postgres's clock.
 * @throws what Postgres throws
 */
export async function probeBackups(
  client: Queryable,
  { source, maxAgeHours }: { source: string; maxAgeHours: number },
): Promise<{ atLeast: 'moderate'; error: string } | undefined> {
  const { rows } = await client.query<{ now: Date; since: Date | null }>(
    `SELECT now(), (SELECT run_on FROM orchestrator.migration WHERE name = '0009_backups') AS since`,
  );
  const now = rows[0]!.now.getTime();
  const all = (await readBackupTimes(client)).filter(
    (times) => times.type === 'database' && times.source === source,
  );
  const none = { lastVerifiedAt: null, lastEndedAt: null, lastState: null, lastError: null };
  const unknown = { lastRestoredAt: null, lastDrillPassed: null, lastDrillError: null };
  const empty = { type: 'database', source, destination: '', size: null, durationSeconds: null };
  const since = rows[0]!.since?.getTime() ?? now;
  const judged = all.length > 0 ? all : [{ ...empty, ...none, ...unknown }];
  // Several destinations: one of them in order is enough.
  const faults = judged.map((times) => freshnessFaults(times, { now, maxAgeHours, since }));
  const best = faults.toSorted((one, other) => one.length - other.length)[0]!;
  return best.length > 0 ? { atLeast: 'moderate', error: best.join('; ') } : undefined;
}
