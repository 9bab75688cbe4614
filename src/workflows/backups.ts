import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  defineQuery,
  defineSignal,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  uuid4,
  workflowInfo,
} from '@temporalio/workflow';
import type { BackupActivities, MakeBackupActivities } from '../activities/backups.ts';
import { backupTaskFaults, keyFaults } from '../domain/backupInput.ts';
import {
  BACKUP_PROGRESS_SIGNAL,
  type BackupProgress,
  type BackupState,
  type BackupStatus,
  type BackupTask,
  backupId,
  backupTaskQueue,
  isBackupProgress,
  keyOfWorkflow,
} from '../domain/backups.ts';
import { describeFailure, tryHard, untilDone } from './backupTries.ts';

export const backupStatusQuery = defineQuery<BackupStatus>('status');
export const backupProgressSignal = defineSignal<[BackupProgress]>(BACKUP_PROGRESS_SIGNAL);

const { beginBackup, commitBackup, applyRetention, endBackup } = proxyActivities<BackupActivities>({
  startToCloseTimeout: '30 minutes',
  heartbeatTimeout: '15 seconds',
  // `untilDone` tries again, and says why.
  retry: { maximumAttempts: 1 },
});

/** Of one that retries Temporal keeps no history, however long the destination is away. */
const { untilWorthTrying } = proxyActivities<BackupActivities>({
  startToCloseTimeout: '1 minute',
  retry: { initialInterval: '15 seconds', backoffCoefficient: 1 },
});

/** A backup that still cleans up holds back the next one of its Schedule. */
const RETENTION_WITHIN = '1 hour';

/**
 * Makes one verified backup, and then lets retention remove what it does not keep. The idempotency key is the workflow's
 * id after `backup/`: a key whose backup is verified already gives that one.
 *
 *   begin ─▶ make and verify ─▶ manifest, row, event ─▶ retention
 *              │    ▲                     (from here on no cancel counts)
 *              └────┘ again, below another directory
 */
export async function backup(task: BackupTask): Promise<BackupStatus> {
  const run = new Backup(task);
  setHandler(backupStatusQuery, () => run.status, {
    description: 'how far it is, its last error; at the end its manifest, and what retention did',
  });
  setHandler(backupProgressSignal, (progress) => {
    // Anybody can send a signal; one that makes no sense must not become a failing workflow task.
    if (isBackupProgress(progress)) run.advance(progress);
  });
  try {
    const faults = [...backupTaskFaults(task), ...keyFaults(run.key)];
    if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
    await run.make();
    return run.status;
  } catch (error) {
    await run.end(error);
    throw error;
  }
}

class Backup {
  status: BackupStatus;
  readonly key = keyOfWorkflow(workflowInfo().workflowId);
  private readonly task: BackupTask;
  private begun: Awaited<ReturnType<BackupActivities['beginBackup']>> | null = null;
  private readonly makeBackup: MakeBackupActivities['makeBackup'];

  constructor(task: BackupTask) {
    this.task = task;
    this.status = {
      state: 'running',
      id: null,
      type: String(task?.type),
      source: String(task?.source),
      destination: null,
      attempts: 0,
      progress: null,
      last_error: null,
      manifest: null,
      retention: null,
      since: new Date().toISOString(),
    };
    ({ makeBackup: this.makeBackup } = proxyActivities<MakeBackupActivities>({
      taskQueue: backupTaskQueue(workflowInfo().taskQueue),
      startToCloseTimeout: '24 hours',
      heartbeatTimeout: '15 seconds',
      // Who died spends no try, and who failed waits long: that is decided here.
      retry: { maximumAttempts: 1 },
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      summary: 'reads, writes and verifies',
    }));
    this.show();
  }

  async make(): Promise<void> {
    const startedAt = new Date().toISOString();
    const own = { id: backupId(startedAt, uuid4()), key: this.key, startedAt };
    const begun = await untilDone(
      () => beginBackup(this.task, own),
      (error) => this.tell(error),
    );
    this.begun = begun;
    this.status = { ...this.status, id: begun.id, destination: begun.destination, last_error: null };
    if (begun.manifest) {
      // The same task again.
      this.status = { ...this.status, manifest: begun.manifest };
      return this.become('verified');
    }
    this.show();
    const made = await tryHard(
      () => this.tryOnce(begun),
      (error) => this.failed(error),
    );
    // A half-committed backup would be worse than a late end.
    await CancellationScope.nonCancellable(async () => {
      this.become('verifying');
      const finishedAt = new Date().toISOString();
      const manifest = await untilDone(
        () => commitBackup(begun, made, finishedAt),
        (error) => this.tell(error),
      );
      this.status = { ...this.status, manifest, last_error: null, progress: null };
      this.become('verified');
      await this.retain(begun);
    });
  }

  /** The backup is good, whatever becomes of the older ones. */
  private async retain(begun: Parameters<BackupActivities['applyRetention']>[0]): Promise<void> {
    const fails = (last_error: string) => {
      this.status = { ...this.status, retention: { kept: null, removed: [], last_error } };
      this.show();
    };
    try {
      const retained = await CancellationScope.withTimeout(RETENTION_WITHIN, () =>
        untilDone(() => applyRetention(begun), fails),
      );
      this.status = { ...this.status, retention: { ...retained, last_error: null } };
      this.show();
    } catch (error) {
      // What is left to be removed the next backup removes.
      const told = this.status.retention?.last_error ?? 'it did not answer';
      fails(isCancellation(error) ? `given up after ${RETENTION_WITHIN}: ${told}` : describeFailure(error));
    }
  }

  private async tryOnce(begun: Parameters<MakeBackupActivities['makeBackup']>[0]) {
    if (begun.destination.startsWith('s3://')) {
      // Here it takes no slot from those that have something to do.
      this.advance({ stage: 'waiting', bytes: 0 });
      await untilWorthTrying();
    }
    this.status = { ...this.status, attempts: this.status.attempts + 1, progress: null };
    this.become('running');
    return this.makeBackup(begun);
  }

  private tell(last_error: string | null): void {
    this.status = { ...this.status, last_error };
    this.show();
  }

  private failed(error: string): void {
    this.status = { ...this.status, last_error: error, progress: null };
    this.become('running');
  }

  advance(progress: BackupProgress): void {
    // A report may arrive after the activity that sent it has ended.
    if (this.status.state !== 'running' && this.status.state !== 'verifying') return;
    const { stage, bytes } = progress;
    this.status = { ...this.status, progress: { stage, bytes, of_about: this.begun?.lastGoodSize ?? null } };
    this.become(stage === 'verifying' ? 'verifying' : 'running');
  }

  /** Nothing of it is left, and everybody knows; also for one that was cancelled. */
  async end(error: unknown): Promise<void> {
    const cancelled = isCancellation(error);
    // What is neither is a bug in this workflow: it stays with Temporal, which shows it, until a fix is there.
    if (!cancelled && !(error instanceof ActivityFailure || error instanceof ApplicationFailure)) throw error;
    const last_error = cancelled ? this.status.last_error : describeFailure(error);
    this.status = { ...this.status, last_error, progress: null };
    const state = cancelled ? 'cancelled' : 'failed';
    const isTask = backupTaskFaults(this.task).length === 0 && keyFaults(this.key).length === 0;
    if (isTask) {
      await CancellationScope.nonCancellable(() =>
        untilDone(
          () => endBackup(this.task, this.begun, { state, error: last_error }),
          (outage) => this.tell(`${last_error ?? state}; its end cannot be written yet: ${outage}`),
        ),
      );
      this.tell(last_error);
    }
    this.become(state);
  }

  private become(state: BackupState): void {
    if (state !== this.status.state) this.status = { ...this.status, state, since: new Date().toISOString() };
    this.show();
  }

  private show(): void {
    const { state, type, source, progress, last_error, manifest, attempts, retention } = this.status;
    const parts = [`**${state}** · ${type} ${source}`];
    if (progress) parts.push(`${progress.stage} ${megabytes(progress.bytes)}`);
    if (progress?.of_about) parts.push(`the last one had ${megabytes(progress.of_about)}`);
    if (manifest) parts.push(`${megabytes(manifest.size)} at ${manifest.destination}`);
    if (attempts > 1) parts.push(`try ${attempts}`);
    if (retention) parts.push(`${retention.removed.length} older ones removed`);
    const error = retention?.last_error ?? last_error;
    setCurrentDetails(`${parts.join(' · ')}${error ? `\n\n${error}` : ''}`);
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1_000_000).toFixed(1)} MB`;
