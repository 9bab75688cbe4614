// The words of backups: what a task is, what a manifest says, and what the workflows answer.
import type { BackupAddress, BackupContent, BackupType } from './backupFacts.ts';
import { isObject } from './consumedRecord.ts';
import type { BackupMessage } from './topicMessages.ts';

/** A payload of `backup.tasks`, and the input of the workflow `backup`. */
export interface BackupTask {
  type: BackupType;
  /** A database's name, a directory, `redis`, or a storage tier. */
  source: string;
  /** `file:///directory` or `s3://bucket/prefix`. Null: the workers' SA01_BACKUP_DESTINATION. */
  destination?: string | null;
  /** Goes into the manifest. `accept_smaller: true` takes a backup that is much smaller than the last good one. */
  metadata?: Record<string, unknown>;
  /** ISO 8601. A task of a Schedule has none. */
  queued_at?: string;
}

/** What makes a directory of a destination a backup; it is written last, and the catalogue follows from it alone. */
export interface BackupManifest {
  format: 1;
  id: string;
  idempotency_key: string;
  type: BackupType;
  source: string;
  destination: string;
  metadata: Record<string, unknown>;
  started_at: string;
  finished_at: string;
  /** Of all its files as they lie in the destination, in bytes. */
  size: number;
  /** Of the file `data` as it lies in the destination, in hex. */
  sha256: string;
  content: BackupContent;
}

/** How far a backup or a drill has come. */
export interface BackupProgress {
  /** `waiting`: the health cycle says that its place is not worth a try now. */
  stage: 'waiting' | 'reading' | 'verifying' | 'restoring';
  /** Of this stage so far. */
  bytes: number;
}

export const isBackupProgress = (value: unknown): value is BackupProgress =>
  isObject(value) &&
  ['waiting', 'reading', 'verifying', 'restoring'].includes(value.stage as string) &&
  typeof value.bytes === 'number' &&
  value.bytes >= 0;

/**
 *   running ──▶ verifying ──▶ verified
 *      ▲             │
 *      └── it is tried again
 *   running, verifying ──▶ failed      no try succeeded, or it makes no sense to try
 *                      ──▶ cancelled   by a person
 */
export type BackupState = 'running' | 'verifying' | 'verified' | 'failed' | 'cancelled';

/** `backup`'s answer to the query `status`, and its result. */
export interface BackupStatus {
  state: BackupState;
  /** Null until it has begun. */
  id: string | null;
  type: string;
  source: string;
  destination: string | null;
  /** Tries so far, with those that a worker's end cut short. */
  attempts: number;
  /** `of_about`: what the last good backup had, for a guess at the rest. */
  progress: (BackupProgress & { of_about: number | null }) | null;
  last_error: string | null;
  manifest: BackupManifest | null;
  /** What retention did afterwards; null until then. `kept` null: it is off. */
  retention: { kept: number | null; removed: string[]; last_error: string | null } | null;
  /** When `state` became what it is; ISO 8601. */
  since: string;
}

export interface RestoreDrillInput {
  /** A backup's id; by default the newest verified one is taken, */
  backup?: string;
  /** of this source, */
  source?: string;
  /** and of this type, by default a database. */
  type?: BackupType;
}

/** SQL that a person configured; in a database that was restored well it gives one row with one value, true. */
export interface DrillCheck {
  name: string;
  sql: string;
}

export interface CheckOutcome {
  name: string;
  passed: boolean;
  /** Why it did not pass. */
  error: string | null;
}

/** What a drill found: it passed if `drillFaults` finds none. */
export interface DrillEvidence {
  /** Tables or entries that were compared. */
  compared: number;
  /** Rows or entries that were found. */
  found: number;
  /** One sentence for each table that is not as the manifest says; at most fifty. */
  differences: string[];
  /** Of a database those that are configured, in their order; of a Redis that its dump is whole. */
  checks: CheckOutcome[];
  seconds: number;
}

/** One sentence for each thing that is not as it should be. */
export const drillFaults = ({ differences, checks }: DrillEvidence): string[] => [
  ...differences,
  ...checks.filter(({ passed }) => !passed).map(({ name, error }) => `the check ${name} ${error}`),
];

export interface RestoreDrillStatus {
  state: 'running' | 'passed' | 'failed' | 'cancelled';
  backup: string | null;
  source: string | null;
  progress: BackupProgress | null;
  evidence: DrillEvidence | null;
  last_error: string | null;
  since: string;
}

/** A verified backup as the catalogue knows it: enough to find and to read it. */
export interface CataloguedBackup {
  id: string;
  type: BackupType;
  source: string;
  destination: string;
  address: BackupAddress;
  content: BackupContent;
}

/** What a message says, as it is asked for; `backupTaskFaults` judges it. */
export const backupTaskOf = ({
  type,
  source,
  destination,
  metadata,
  queuedAt,
}: BackupMessage): BackupTask => ({
  type: type as BackupType,
  source,
  destination,
  metadata,
  queued_at: new Date(queuedAt).toISOString(),
});

/** Where completed and failed backups and drills are told. */
export const BACKUP_EVENTS_TOPIC = 'backup.events';
/** The signal that carries a BackupProgress; for the activity, not for people. */
export const BACKUP_PROGRESS_SIGNAL = 'progress';

const WORKFLOW_PREFIX = 'backup/';
export const backupWorkflowId = (idempotencyKey: string): string => `${WORKFLOW_PREFIX}${idempotencyKey}`;

/** What the list of workflows says of it. */
export const backupSummary = ({ type, source }: BackupTask): string =>
  `a verified backup: ${type} ${source}`.slice(0, 200);
export const DRILL_SUMMARY = 'restores a backup for real, compares it with its manifest, keeps the evidence';

/** The idempotency key in a workflow's id; empty where it has another form: two workflows would share one key. */
export const keyOfWorkflow = (workflowId: string): string =>
  workflowId.startsWith(WORKFLOW_PREFIX) ? workflowId.slice(WORKFLOW_PREFIX.length) : '';

/** Dumps run for hours: with a queue of their own they never take the slots of short activities. */
export const backupTaskQueue = (taskQueue: string): string => `${taskQueue}-backup`;

/** Says when it began, and is nobody else's; safe as a part of a path. `random`: hex digits. */
export const backupId = (startedAt: string, random: string): string =>
  `${startedAt.slice(0, 19).replaceAll(/[-:]/g, '').toLowerCase()}z-${random.slice(0, 8)}`;

/** Two tries of one backup never write to the same place: the first may be a worker that only seemed dead. */
export const attemptId = (id: string, attempt: number): string => `${id}-${attempt}`;

const ATTEMPT = /^\d{8}t\d{6}z-[0-9a-f]{8}-[1-9]\d{0,8}$/;

/** Whether only this service can have made a directory of this name. */
export const isAttemptId = (name: string): boolean => ATTEMPT.test(name);

/** The waits between tries that failed, in seconds: seven tries within two hours. */
export const RETRY_WAITS_SECONDS = [2, 60, 300, 900, 1_800, 3_600] as const;
/** So many workers may end under one backup before it is held to be the reason. */
export const MAX_WORKER_DEATHS = 20;

/** What is told on `backup.events`, once each. */
export interface BackupEvent {
  event: 'backup.completed' | 'backup.failed' | 'drill.passed' | 'drill.failed';
  backup_id: string | null;
  type: string | null;
  source: string | null;
  destination: string | null;
  size: number | null;
  sha256: string | null;
  error: string | null;
  timestamp: string;
}

/**
 * What differs between the rows (or entries) that a manifest names and those that a restore brought back. Both by name;
 * a table that nobody counted is told too.
 */
export function compareRows(
  expected: Record<string, number>,
  found: Record<string, number>,
): Pick<DrillEvidence, 'compared' | 'found' | 'differences'> {
  const names = [...new Set([...Object.keys(expected), ...Object.keys(found)])].toSorted();
  const differences = names.flatMap((name) => {
    const [before, after] = [expected[name], found[name]];
    if (before === after) return [];
    if (before === undefined) return [`${name} is not in the manifest: ${after} restored`];
    return [`${name}: ${before} backed up, ${after ?? 'nothing'} restored`];
  });
  return {
    compared: names.length,
    found: Object.values(found).reduce((sum, count) => sum + count, 0),
    differences: differences.slice(0, 50),
  };
}

/** What the manifest of a finished backup says. */
export function manifestOf(
  begun: Pick<
    BackupManifest,
    'id' | 'idempotency_key' | 'type' | 'source' | 'destination' | 'metadata' | 'started_at'
  >,
  content: BackupContent,
  finishedAt: string,
): BackupManifest {
  return {
    format: 1,
    ...begun,
    finished_at: finishedAt,
    size: content.files.reduce((sum, { size }) => sum + size, 0),
    sha256: content.files.find(({ name }) => name === 'data')?.sha256 ?? '',
    content,
  };
}
