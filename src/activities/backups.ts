import { ApplicationFailure, activityInfo, cancellationSignal, log } from '@temporalio/activity';
import type { Client } from '@temporalio/client';
import type pg from 'pg';
import { commitManifest } from '../backups/commit.ts';
import type { BackupDestination } from '../backups/destination.ts';
import { findVerified } from '../backups/holds.ts';
import { type MakeOptions, makeBackup } from '../backups/make.ts';
import { sourceSlug } from '../backups/names.ts';
import { openDestination, openSource, requireApart } from '../backups/open.ts';
import type { BackupSettings } from '../backups/settings.ts';
import { watched } from '../backups/watchdog.ts';
import {
  attemptsOf,
  type BegunBackup,
  beginBackup,
  beginRemoval,
  lockNewestAttempt,
  nextAttempt,
  readRuns,
  recordEnded,
  recordRemoved,
  recordVerified,
} from '../database/backups.ts';
import { enqueue } from '../database/outbox.ts';
import { inTransaction, withClient } from '../database/postgres.ts';
import { isTierOut } from '../database/uploadTiers.ts';
import type { BackupAddress, BackupContent } from '../domain/backupFacts.ts';
import { sizeFault } from '../domain/backupFreshness.ts';
import type { RetentionPolicy } from '../domain/backupRetention.ts';
import {
  attemptId,
  BACKUP_EVENTS_TOPIC,
  type BackupEvent,
  type BackupManifest,
  type BackupProgress,
  type BackupTask,
  manifestOf,
} from '../domain/backups.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { ended, ProgressReporter, told } from './backupSteps.ts';

export interface BackupDependencies {
  pool: pg.Pool;
  settings: BackupSettings;
  /** Where a task goes that names no destination. */
  defaultDestination: string | undefined;
  /** Undefined: nothing is removed. */
  retention: RetentionPolicy | undefined;
  /** Aborted when the worker stops: another one begins the backup again. */
  stop: AbortSignal;
  /** For the progress of an activity, to its own workflow. */
  temporal: Client;
}

/** What was made and is verified, but has no manifest yet. */
export interface MadeBackup {
  address: BackupAddress;
  content: BackupContent;
}

/** Longer than any backup may take: what is left of a killed worker is older. */
const STRANDED_AFTER_MS = 48 * 3_600_000;

/** The short ones: what Postgres and the destination are told. */
export function createBackupActivities(dependencies: Omit<BackupDependencies, 'temporal' | 'stop'>) {
  const { pool, settings, retention } = dependencies;
  return {
    /**
     * Checks what the task names against what this worker allows, and writes its row, or finds the one of its key.
     * @throws backup_refused
     */
    beginBackup: (task: BackupTask, own: { id: string; key: string; startedAt: string }) =>
      told(async () => {
        await openSource(task.type, task.source, settings);
        const wanted = task.destination ?? dependencies.defaultDestination;
        if (!wanted) throw refused('the task names no destination, and SA01_BACKUP_DESTINATION is not set');
        const destination = await openDestination(wanted, settings);
        await requireApart(task, destination, settings);
        return beginBackup(pool, {
          id: own.id,
          idempotency_key: own.key,
          type: task.type,
          source: task.source,
          destination: destination.url,
          metadata: task.metadata ?? {},
          started_at: own.startedAt,
        });
      }),

    /** Makes what was written a backup: the manifest, then the row and the event. The same again changes nothing. */
    commitBackup: (begun: BegunBackup, made: MadeBackup, finishedAt: string): Promise<BackupManifest> =>
      told(() => commit(dependencies, begun, made, finishedAt)),

    /** Removes what retention does not keep of the backup's source and destination, and what killed workers left there. */
    applyRetention: (begun: BegunBackup) =>
      told(async () => {
        const destination = await openDestination(begun.destination, settings);
        const done = retention
          ? await retain(pool, begun, { policy: retention, destination })
          : { kept: null, removed: [] };
        await clearStranded(destination);
        return done;
      }),

    /** Fails, to be tried again, while the health cycle says that S3 is not worth a try. */
    untilWorthTrying: (): Promise<void> =>
      told(async () => {
        // The gate ends by itself where no health cycle renews it.
        if (!(await isTierOut(pool, 's3'))) return;
        const message = 'the health cycle says that S3 is away';
        throw ApplicationFailure.create({ type: 'backup_failed', message, category: 'BENIGN' });
      }),

    /** Clears away what tries have left, and writes how it ended. `begun` null: it never had a row. */
    endBackup: (task: BackupTask, begun: BegunBackup | null, ended: EndedBackup): Promise<void> =>
      told(() => end(dependencies, task, begun, ended)),
  };
}

export type BackupActivities = ReturnType<typeof createBackupActivities>;

export interface EndedBackup {
  state: 'failed' | 'cancelled';
  error: string | null;
}

async function commit(
  { pool, settings }: Pick<BackupDependencies, 'pool' | 'settings'>,
  { lastGoodSize, manifest: _, ...begun }: BegunBackup,
  { address, content }: MadeBackup,
  finishedAt: string,
): Promise<BackupManifest> {
  const destination = await openDestination(begun.destination, settings);
  const manifest = manifestOf(begun, content, finishedAt);
  const plainSize = content.files.reduce((sum, file) => sum + file.plainSize, 0);
  const fault = sizeFault(plainSize, lastGoodSize, begun.metadata.accept_smaller === true);
  if (fault) throw refused(fault);
  const written = { manifest: `${JSON.stringify(manifest, null, 2)}\n`, files: content.files };
  await withClient(pool, (client) =>
    inTransaction(client, async () => {
      // Whoever ends this backup and clears it away, or begins another try, does so before or after.
      await lockNewestAttempt(client, begun.id, address);
      await commitManifest(destination, address, written, cancellationSignal());
      await recordVerified(client, manifest, address);
      const { size, sha256 } = manifest;
      await tell(client, `backup:${begun.id}:completed`, {
        ...eventOf('backup.completed', begun, finishedAt),
        size,
        sha256,
      });
    }),
  );
  return manifest;
}

async function end(
  { pool, settings, defaultDestination }: Omit<BackupDependencies, 'temporal' | 'stop'>,
  task: BackupTask,
  begun: BegunBackup | null,
  { state, error }: EndedBackup,
): Promise<void> {
  await withClient(pool, (client) =>
    inTransaction(client, async () => {
      // One that is verified after all is told already.
      if (begun && !(await recordEnded(client, begun.id, state, error))) return;
      if (state === 'cancelled') return;
      const what = begun ?? {
        ...task,
        id: null,
        destination: task.destination ?? defaultDestination ?? null,
      };
      const { workflowId, runId } = activityInfo().workflowExecution!;
      await tell(client, `backup:${begun?.id ?? workflowId}:failed:${runId}`.slice(-255), {
        ...eventOf('backup.failed', what, new Date().toISOString()),
        error,
      });
    }),
  );
  // Only now: before, one of them could have become the backup.
  if (begun) await clearAttempts({ pool, settings }, begun);
}

async function retain(
  pool: pg.Pool,
  { type, source, destination: url }: BegunBackup,
  { policy, destination }: { policy: RetentionPolicy; destination: BackupDestination },
) {
  const group = { type, source, destination: url };
  const signal = cancellationSignal();
  const { found, gone } = await findVerified(destination, await readRuns(pool, group), signal);
  if (gone.length > 0) log.warn('verified backups are not at their destination any more', { url, gone });
  const { decisions, removing } = await beginRemoval(pool, group, policy, found);
  for (const { id, address } of removing) {
    await destination.remove(address, signal);
    await recordRemoved(pool, id);
  }
  return { kept: decisions.filter(({ keep }) => keep).length, removed: removing.map(({ id }) => id) };
}

async function clearStranded(destination: BackupDestination): Promise<void> {
  const signal = cancellationSignal();
  for (const stranded of await destination.stranded(Date.now() - STRANDED_AFTER_MS, signal)) {
    log.info('removes what a killed worker left', { name: stranded.name, since: stranded.since });
    await stranded.remove(signal);
  }
}

/** What cannot be removed now goes with what is stranded, after two days. */
async function clearAttempts(
  { pool, settings }: Pick<BackupDependencies, 'pool' | 'settings'>,
  begun: BegunBackup,
): Promise<void> {
  try {
    const destination = await openDestination(begun.destination, settings);
    for (const id of await attemptsOf(pool, begun.id))
      await destination.remove(addressOf(begun, id), cancellationSignal());
  } catch (error) {
    log.warn('what the tries of a backup left is not removed yet', {
      id: begun.id,
      error: describeError(error),
    });
  }
}

const addressOf = ({ type, source }: BegunBackup, id: string): BackupAddress => ({
  type,
  source: sourceSlug(source),
  id,
});

const refused = (message: string): OrchestratorError => new OrchestratorError('backup_refused', message);

/** The long one; dumps take as long as they take. */
export function createMakeBackupActivities(dependencies: BackupDependencies) {
  return {
    /**
     * Makes one try of the backup, below a directory of its own, and verifies it there. What earlier tries left goes
     * first; one that fails, is cancelled, or stands still for 15 minutes leaves nothing. Progress goes to the workflow.
     */
    async makeBackup(begun: BegunBackup): Promise<MadeBackup> {
      const reporter = new ProgressReporter(dependencies.temporal);
      try {
        return await watched(AbortSignal.any([cancellationSignal(), dependencies.stop]), (signal, alive) => {
          const onProgress = (progress: BackupProgress) => {
            alive();
            reporter.accept(progress);
          };
          return tryOnce(dependencies, begun, { signal, onProgress });
        });
      } catch (error) {
        throw ended(error, dependencies.stop);
      } finally {
        reporter.close();
      }
    },
  };
}

async function tryOnce(
  { pool, settings }: Pick<BackupDependencies, 'pool' | 'settings'>,
  begun: BegunBackup,
  options: MakeOptions,
): Promise<MadeBackup> {
  const attempt = await nextAttempt(pool, begun.id);
  const source = await openSource(begun.type, begun.source, settings);
  const destination = await openDestination(begun.destination, settings);
  for (let earlier = 1; earlier < attempt; earlier += 1)
    await destination.remove(addressOf(begun, attemptId(begun.id, earlier)), options.signal);
  const address = addressOf(begun, attemptId(begun.id, attempt));
  return { address, content: await makeBackup({ source, destination, address, settings }, options) };
}

export type MakeBackupActivities = ReturnType<typeof createMakeBackupActivities>;

type Told = { id: string | null; type: string; source: string; destination: string | null };

export const eventOf = (event: BackupEvent['event'], what: Told | null, timestamp: string): BackupEvent => ({
  event,
  backup_id: what?.id ?? null,
  type: what?.type ?? null,
  source: what?.source ?? null,
  destination: what?.destination ?? null,
  size: null,
  sha256: null,
  error: null,
  timestamp,
});

/** In the order of each source. */
export async function tell(client: pg.ClientBase, idempotencyKey: string, event: BackupEvent): Promise<void> {
  await enqueue(client, {
    idempotencyKey,
    topic: BACKUP_EVENTS_TOPIC,
    key: `${event.type}:${event.source}`.slice(0, 255),
    payload: { ...event },
    headers: { event_type: event.event },
  });
}
