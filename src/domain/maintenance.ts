import { isSweep, type Sweep, type Swept, type Unreachable } from './uploadSweep.ts';

/**
 * What is purged, in this order: published rows of the outbox, expired idempotency records, transitions of health, and
 * uploads that were cancelled before they were stored.
 */
export const PURGE_STAGES = ['published', 'idempotency', 'health', 'uploads'] as const;
export type PurgeStage = (typeof PURGE_STAGES)[number];
export type Purged = Record<PurgeStage, number>;

/** How long a transition of a component's health can be looked up. */
export const HEALTH_RETENTION_DAYS = 30;

/** How long a cancelled upload can be started again. */
export const CANCELLED_UPLOAD_DAYS = 30;

/**
 * One batch is one transaction of at most this many rows and, because deleting a large payload costs as much as many
 * small rows, of about this many stored bytes (one larger row goes alone).
 */
export const PURGE_BATCH_ROWS = 500;
export const PURGE_BATCH_BYTES = 8_000_000;
/** A dry run deletes nothing, so its batches are larger. */
export const COUNT_BATCH_ROWS = 5_000;

/** The part of the time in which a purge may keep Postgres busy; the rest belongs to the relays. */
const DUTY = 0.2;
const MAX_PAUSE_MS = 5_000;

/** The pause after a batch that took `busyMs`. A purge on a busy server, where batches take long, slows down by itself. */
export const pauseAfter = (busyMs: number): number => Math.min(MAX_PAUSE_MS, busyMs * (1 / DUTY - 1));

/** How far a purge has come; small enough to be heartbeat details and workflow state. */
export interface PurgeProgress {
  /** 'done': nothing is left that may go. */
  stage: PurgeStage | 'done';
  /** The walk goes on at this time of the stage's rows, as Postgres writes it. */
  from: string;
  /** Rows deleted so far; in a dry run, rows that would be. */
  purged: Purged;
  /** When the first published row was created that is too young to go; ISO 8601. Null: none, or not reached yet. */
  oldestKept: string | null;
}

/** Earlier than every row, and finite: nothing comes after -infinity plus a microsecond. */
const START = '4713-01-01 00:00:00+00 BC';

/** A count for each stage: an earlier version knew fewer of them. */
export const completeCounts = (purged: Partial<Purged>): Purged => ({
  published: 0,
  idempotency: 0,
  health: 0,
  uploads: 0,
  ...purged,
});

export const purgeStart = (): PurgeProgress => ({
  stage: PURGE_STAGES[0],
  from: START,
  purged: completeCounts({}),
  oldestKept: null,
});

/** What one batch found on its way. */
export interface PurgedBatch {
  /** Rows deleted; in a dry run, counted. */
  rows: number;
  /** The time of the last row it looked at, and the next time after that. Null: there was no row. */
  last: string | null;
  beyond: string | null;
  /** There may be rows after those. */
  more: boolean;
}

/**
 * The walk's next step. It goes by time, and many rows may have the same time. After a batch that deleted some it looks
 * at the last time again. A batch that stays on one time and finds nothing there that may go moves on behind it: those
 * of its rows that are due later are found by a later purge. So every walk ends.
 */
export function advance(progress: PurgeProgress, batch: PurgedBatch): PurgeProgress {
  const { stage, from, purged } = progress;
  if (stage === 'done') return progress;
  const before = completeCounts(purged);
  const advanced = { ...progress, purged: { ...before, [stage]: before[stage] + batch.rows } };
  const next = batch.rows === 0 && batch.last === from ? batch.beyond : batch.last;
  if (batch.more && next !== null) return { ...advanced, from: next };
  return { ...advanced, stage: PURGE_STAGES[PURGE_STAGES.indexOf(stage) + 1] ?? 'done', from: START };
}

/** `maintenance`'s answer to the query `status`, and its result. */
export interface MaintenanceStatus {
  /** While Postgres is away the state is still `running`, and `last_error` says why it does not get on. */
  state: MaintenanceState;
  /** Nothing is deleted: `purged` and `swept` count what would be. */
  dry_run: boolean;
  purged: Purged;
  /** When the first published row was created that is too young to go; ISO 8601. Null: none, or not reached yet. */
  oldest_kept: string | null;
  /** What uploads left behind, in the tiers and in the spool. */
  swept: Swept;
  /** Where that could not be found out, or not all of it, and why: a later run does it. */
  unreachable: Unreachable;
  last_error: string | null;
  /** When `state` became what it is; ISO 8601. */
  since: string;
}

export type MaintenanceState = 'running' | 'done' | 'failed' | 'cancelled';

/** All is optional. What is not `dryRun` is for the workflow's own next run, and for tests. */
export interface MaintenanceInput {
  /** Counts what a purge would delete, and deletes nothing. */
  dryRun?: boolean;
  /** Where an earlier run of the same workflow stopped. */
  progress?: PurgeProgress;
  sweep?: Sweep;
  /** Leaves for a new run at this many events; by default Temporal's own suggestion decides. */
  historyLimit?: number;
}

/** A run has three events before its first line: with fewer it would only ever continue as new. */
const MIN_HISTORY = 5;

/**
 * One sentence for each field at fault, naming it, its value and what is expected; none if the input is good. An unknown
 * field is refused too: behind a misspelt `dryRun` rows would be deleted that were only to be counted.
 */
export function maintenanceInputFaults(input: unknown): string[] {
  if (!isObject(input)) return [`maintenance takes no input, or an object: got ${shown(input)}`];
  return Object.entries(input).flatMap(([name, value]) => {
    const field = Object.hasOwn(FIELDS, name) ? FIELDS[name as keyof MaintenanceInput] : undefined;
    if (!field) return [`${name} is no field: expected dryRun, or nothing; got ${shown(value)}`];
    const [isGood, expected] = field;
    return isGood(value) ? [] : [`${name} must be ${expected}: got ${shown(value)}`];
  });
}

const FIELDS: Record<keyof MaintenanceInput, [isGood: (value: unknown) => boolean, expected: string]> = {
  dryRun: [(value) => typeof value === 'boolean', 'true or false'],
  progress: [isPurgeProgress, 'what an earlier run left: for a start leave it out'],
  sweep: [isSweep, 'what an earlier run left: for a start leave it out'],
  historyLimit: [
    (value) => Number.isInteger(value) && (value as number) >= MIN_HISTORY,
    `a whole number from ${MIN_HISTORY} on`,
  ],
};

export function isPurgeProgress(value: unknown): value is PurgeProgress {
  if (!isObject(value) || typeof value.from !== 'string' || !isObject(value.purged)) return false;
  const counts = Object.values(completeCounts(value.purged));
  const stages: unknown[] = [...PURGE_STAGES, 'done'];
  const kept = value.oldestKept === null || typeof value.oldestKept === 'string';
  return kept && stages.includes(value.stage) && counts.every(Number.isInteger);
}

const shown = (value: unknown): string => JSON.stringify(value).slice(0, 200);

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** What each run does, for people who look at the list of workflows. */
export const MAINTENANCE_SUMMARY =
  'deletes old published rows of core_outboxmessage, expired idempotency records, old transitions of health, and what uploads left behind';
