// Which backups may go. Terms and rules are restic's (`restic forget`), so people know them; the safeguards around them
// are ours.

/** How many to keep of each kind; what any of them keeps is kept. Days, months and years are those of UTC. */
export interface RetentionPolicy {
  /** The newest. */
  last?: number;
  /** The newest of each of so many days, weeks (from Monday on), months and years that have one. */
  daily?: number;
  weekly?: number;
  monthly?: number;
  yearly?: number;
  /** All that are at most so many days older than the newest: not than today, so a pause of backups deletes nothing. */
  withinDays?: number;
  /** At least so many are left, whatever the rest says. */
  minimum?: number;
}

/** A run of one source to one destination: retention looks at each such group by itself. */
export interface BackupRun {
  id: string;
  /** In milliseconds of the epoch. */
  startedAt: number;
  /** Only verified ones count. One that is still running says nothing yet. */
  state: 'running' | 'verified' | 'failed' | 'cancelled';
  /** Why a person wants it kept; null: nobody does. */
  hold: string | null;
}

/**
 * The runs as their destination has them (`found`: the holds there, by id): a verified one that is not there any more is
 * no backup, whatever the catalogue says.
 */
export const asFound = (runs: BackupRun[], found: ReadonlyMap<string, string | null>): BackupRun[] =>
  runs
    .filter(({ id, state }) => state !== 'verified' || found.has(id))
    .map((run) => ({ ...run, hold: run.hold ?? found.get(run.id) ?? null }));

export interface RetentionDecision {
  id: string;
  keep: boolean;
  /** Why it is kept; for one that goes, a sentence that says so. */
  reasons: string[];
}

/** Barman's minimum redundancy: also with a careless policy there is more than one. */
export const DEFAULT_MINIMUM = 2;

/** One sentence for each fault of a policy. An empty policy would delete everything, so it is one. */
export function policyFaults(policy: RetentionPolicy): string[] {
  const faults = Object.entries(policy).flatMap(([name, count]) =>
    Number.isSafeInteger(count) && count >= 0 && Object.hasOwn(NAMES, name)
      ? []
      : [`${name} must be one of ${Object.keys(NAMES).join(', ')} with a whole number from 0 on`],
  );
  const { minimum: _, ...kept } = policy;
  if (Object.values(kept).every((count) => !count)) faults.push('a policy that keeps nothing is refused');
  return faults;
}

const NAMES: Record<keyof RetentionPolicy, true> = {
  last: true,
  daily: true,
  weekly: true,
  monthly: true,
  yearly: true,
  withinDays: true,
  minimum: true,
};

/**
 * Decides about every verified run of one group; what is not verified is no backup, and nothing is said of it.
 *
 * Nothing goes where the newest run that ended did not end well, or under a policy with a fault; and never the newest
 * verified one or one on hold.
 */
export function decideRetention(runs: BackupRun[], policy: RetentionPolicy): RetentionDecision[] {
  const newestFirst = runs.toSorted(
    (one, other) => other.startedAt - one.startedAt || compare(other.id, one.id),
  );
  const backups = newestFirst.filter(({ state }) => state === 'verified');
  const veto = vetoOf(newestFirst, policy);
  if (veto) return backups.map(({ id }) => ({ id, keep: true, reasons: [veto] }));
  const reasons = new Map(backups.map(({ id }) => [id, new Set<string>()]));
  const keep = (backup: BackupRun, reason: string) => reasons.get(backup.id)?.add(reason);
  if (backups[0]) keep(backups[0], 'the last good one');
  for (const backup of backups) if (backup.hold !== null) keep(backup, `on hold: ${backup.hold}`);
  for (const rule of RULES) applyRule(rule, backups, policy[rule.name] ?? 0, keep);
  keepWithin(backups, policy.withinDays ?? 0, keep);
  keepMinimum(backups, policy.minimum ?? DEFAULT_MINIMUM, reasons);
  return backups.map(({ id }) => {
    const why = [...(reasons.get(id) ?? [])];
    return { id, keep: why.length > 0, reasons: why.length > 0 ? why : ['no rule keeps it'] };
  });
}

/** Why nothing may go at all. */
function vetoOf(newestFirst: BackupRun[], policy: RetentionPolicy): string | undefined {
  const faults = policyFaults(policy);
  if (faults.length > 0) return faults.join('; ');
  const ended = newestFirst.find(({ state }) => state !== 'running');
  return ended && ended.state !== 'verified'
    ? `the last run ${ended.state}: nothing goes after that`
    : undefined;
}

interface Rule {
  name: 'last' | 'daily' | 'weekly' | 'monthly' | 'yearly';
  reason: string;
  /** Of each bucket the newest is kept. */
  bucket(at: Date, index: number): string | number;
}

const DAY_MS = 86_400_000;
/** 1 January 1970 was a Thursday. */
const weekOf = (at: Date): number => Math.floor((Math.floor(at.getTime() / DAY_MS) + 3) / 7);

const RULES: Rule[] = [
  { name: 'last', reason: 'one of the last', bucket: (_, index) => index },
  { name: 'daily', reason: 'daily', bucket: (at) => Math.floor(at.getTime() / DAY_MS) },
  { name: 'weekly', reason: 'weekly', bucket: weekOf },
  { name: 'monthly', reason: 'monthly', bucket: (at) => at.getUTCFullYear() * 12 + at.getUTCMonth() },
  { name: 'yearly', reason: 'yearly', bucket: (at) => at.getUTCFullYear() },
];

/** As restic: while there are fewer buckets than the rule keeps, the oldest backup stands in for the past. */
function applyRule(
  { reason, bucket }: Rule,
  backups: BackupRun[],
  count: number,
  keep: (backup: BackupRun, reason: string) => void,
): void {
  let left = count;
  let last: string | number | undefined;
  for (const [index, backup] of backups.entries()) {
    if (left === 0) return;
    const own = bucket(new Date(backup.startedAt), index);
    const isOldest = index === backups.length - 1;
    if (own === last && !isOldest) continue;
    keep(backup, own === last ? `${reason} (the oldest there is)` : reason);
    last = own;
    left -= 1;
  }
}

function keepWithin(
  backups: BackupRun[],
  days: number,
  keep: (backup: BackupRun, reason: string) => void,
): void {
  const [newest] = backups;
  if (days === 0 || !newest) return;
  for (const backup of backups)
    if (newest.startedAt - backup.startedAt <= days * DAY_MS) keep(backup, `within ${days} days`);
}

/** The newest of those that would go are kept until there are enough. */
function keepMinimum(backups: BackupRun[], minimum: number, reasons: Map<string, Set<string>>): void {
  let kept = backups.filter(({ id }) => reasons.get(id)!.size > 0).length;
  for (const { id } of backups) {
    if (kept >= minimum) return;
    const why = reasons.get(id)!;
    if (why.size > 0) continue;
    why.add(`at least ${minimum} are kept`);
    kept += 1;
  }
}

const compare = (one: string, other: string): number => (one < other ? -1 : Number(one > other));

const RETENTION_NAMES: Record<string, keyof RetentionPolicy> = {
  last: 'last',
  daily: 'daily',
  weekly: 'weekly',
  monthly: 'monthly',
  yearly: 'yearly',
  within: 'withinDays',
  minimum: 'minimum',
};

/** `last=3,daily=7,within=30`, as people write it. Undefined for `all`; null if it is no policy, or one with a fault. */
export function parseRetention(text: string): RetentionPolicy | undefined | null {
  if (text === 'all') return undefined;
  const policy: RetentionPolicy = {};
  for (const term of text.split(',')) {
    const [, name = '', count] = /^\s*([a-z]+)=(\d{1,5})d?\s*$/.exec(term) ?? [];
    const field = Object.hasOwn(RETENTION_NAMES, name) ? RETENTION_NAMES[name] : undefined;
    if (!field || field in policy) return null;
    policy[field] = Number(count);
  }
  return policyFaults(policy).length > 0 ? null : policy;
}
