// When a backup is too small to be believed, and when backups are too old to be relied on.

/** A dump that is smaller than this part of the last good one is held to be a failure that nobody noticed. */
export const SIZE_FLOOR = 0.5;

/** One sentence where a backup is too small. Sizes in bytes; `lastGood` null: there was none. */
export function sizeFault(size: number, lastGood: number | null, acceptSmaller: boolean): string | undefined {
  if (size <= 0) return 'the backup is empty';
  if (lastGood === null || acceptSmaller || size >= lastGood * SIZE_FLOOR) return undefined;
  return `the backup has ${size} bytes and the last good one ${lastGood}: less than ${SIZE_FLOOR * 100} % of it; where that is right, back up with metadata {"accept_smaller": true}`;
}

/** What the catalogue says of one source's backups to one destination. Times in milliseconds of the epoch. */
export interface BackupTimes {
  type: string;
  source: string;
  destination: string;
  lastVerifiedAt: number | null;
  /** When the newest run ended that ended, and how. */
  lastEndedAt: number | null;
  lastState: string | null;
  lastError: string | null;
  /** When a backup of it was last restored by a drill that passed. */
  lastRestoredAt: number | null;
  /** When the newest drill of it ended; null: there was none. */
  lastDrillAt: number | null;
  /** Of that one: false if it failed. */
  lastDrillPassed: boolean | null;
  lastDrillError: string | null;
  /** Of the newest verified one. */
  size: number | null;
  durationSeconds: number | null;
}

/**
 * What is wrong with the backups of a source that is backed up regularly, one sentence each; none if all is well. `all`
 * has the source's times, one for each destination: any of them may have the newest good one, and each whose last run
 * failed is told, for as long as a good one may be old. `since` is when backups could have begun: a fresh deployment has
 * the same time for its first one.
 */
export function freshnessFaults(
  source: string,
  all: BackupTimes[],
  { now, maxAgeHours, since }: { now: number; maxAgeHours: number; since: number },
): string[] {
  const hoursSince = (moment: number) => (now - moment) / 3_600_000;
  const goodOnes = all.flatMap(({ lastVerifiedAt }) => lastVerifiedAt ?? []);
  const faults: string[] = [];
  const newest = goodOnes.length > 0 ? Math.max(...goodOnes) : undefined;
  if (hoursSince(newest ?? since) > maxAgeHours) {
    const age =
      newest === undefined
        ? 'there is none yet'
        : `the last good one is ${Math.floor(hoursSince(newest))} h old`;
    faults.push(`no verified backup of ${source} for ${maxAgeHours} h: ${age}`);
  }
  for (const { lastState, lastEndedAt, lastError, destination } of all)
    if (lastState === 'failed' && hoursSince(lastEndedAt ?? now) <= maxAgeHours)
      faults.push(`the last backup of ${source} to ${destination} failed: ${lastError}`);
  // A drill takes the newest backup, wherever that is.
  const [drilled] = all.toSorted((one, other) => (other.lastDrillAt ?? 0) - (one.lastDrillAt ?? 0));
  if (drilled?.lastDrillPassed === false)
    faults.push(`the last restore drill of ${source} failed: ${drilled.lastDrillError}`);
  return faults;
}
