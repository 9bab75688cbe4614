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
  /** Of the newest drill: false if it failed, null if there was none. */
  lastDrillPassed: boolean | null;
  lastDrillError: string | null;
  /** Of the newest verified one. */
  size: number | null;
  durationSeconds: number | null;
}

/**
 * What is wrong with the backups of a source that is backed up regularly, one sentence each; none if all is well.
 * `since` is when backups could have begun: a fresh deployment has the same time for its first one.
 */
export function freshnessFaults(
  times: BackupTimes,
  { now, maxAgeHours, since }: { now: number; maxAgeHours: number; since: number },
): string[] {
  const faults: string[] = [];
  const hours = (now - (times.lastVerifiedAt ?? since)) / 3_600_000;
  if (hours > maxAgeHours) {
    const age =
      times.lastVerifiedAt === null ? 'there is none yet' : `the last good one is ${Math.floor(hours)} h old`;
    faults.push(`no verified backup of ${times.source} for ${maxAgeHours} h: ${age}`);
  }
  if (times.lastState === 'failed')
    faults.push(`the last backup of ${times.source} failed: ${times.lastError}`);
  if (times.lastDrillPassed === false)
    faults.push(`the last restore drill of ${times.source} failed: ${times.lastDrillError}`);
  return faults;
}
