import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  defineQuery,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { DrillActivities, RestoreDrillActivities } from '../activities/restoreDrills.ts';
import { drillInputFaults } from '../domain/backupInput.ts';
import {
  backupTaskQueue,
  type CataloguedBackup,
  drillFaults,
  isBackupProgress,
  type RestoreDrillInput,
  type RestoreDrillStatus,
} from '../domain/backups.ts';
import { backupProgressSignal } from './backups.ts';
import { describeFailure, tryHard, untilDone } from './backupTries.ts';

export const drillStatusQuery = defineQuery<RestoreDrillStatus>('status');

const { chooseBackup, recordDrill } = proxyActivities<RestoreDrillActivities>({
  startToCloseTimeout: '1 minute',
  // `untilDone` tries again, and says why.
  retry: { maximumAttempts: 1 },
});

/**
 * Restores a backup for real, into a scratch database or directory that is dropped afterwards, compares it with what its
 * manifest says, and runs the checks that are configured. The evidence is kept; a drill that does not pass fails the workflow, after that is told.
 */
export async function restoreDrill(input: RestoreDrillInput = {}): Promise<RestoreDrillStatus> {
  const drill = new Drill(input);
  setHandler(drillStatusQuery, () => drill.status, {
    description: 'which backup is restored, what was found, the last error',
  });
  setHandler(backupProgressSignal, (progress) => {
    if (isBackupProgress(progress)) drill.advance(progress);
  });
  try {
    const faults = drillInputFaults(input);
    if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
    await drill.run();
    return drill.status;
  } catch (error) {
    await drill.end(error);
    throw error;
  }
}

class Drill {
  status: RestoreDrillStatus = {
    state: 'running',
    backup: null,
    source: null,
    progress: null,
    evidence: null,
    last_error: null,
    since: new Date().toISOString(),
  };
  private readonly startedAt = this.status.since;
  private readonly input: RestoreDrillInput;
  private backup: CataloguedBackup | null = null;
  private recorded = false;
  private readonly drillBackup: DrillActivities['drillBackup'];

  constructor(input: RestoreDrillInput) {
    this.input = input;
    ({ drillBackup: this.drillBackup } = proxyActivities<DrillActivities>({
      taskQueue: backupTaskQueue(workflowInfo().taskQueue),
      startToCloseTimeout: '24 hours',
      heartbeatTimeout: '15 seconds',
      retry: { maximumAttempts: 1 },
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      summary: 'restores to a scratch place and compares',
    }));
  }

  async run(): Promise<void> {
    const backup = await untilDone(
      () => chooseBackup(this.input),
      (error) => this.tell(error),
    );
    this.backup = backup;
    this.status = { ...this.status, backup: backup.id, source: backup.source, last_error: null };
    this.show();
    const evidence = await tryHard(
      () => this.drillBackup(backup),
      (error) => this.tell(error),
    );
    this.status = { ...this.status, evidence, last_error: null, progress: null };
    const faults = drillFaults(evidence);
    if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'drill_failed');
    await CancellationScope.nonCancellable(() => this.record(true));
    this.become('passed');
  }

  advance(progress: RestoreDrillStatus['progress']): void {
    if (this.status.state !== 'running') return;
    this.status = { ...this.status, progress };
    this.show();
  }

  async end(error: unknown): Promise<void> {
    if (isCancellation(error)) return this.become('cancelled');
    if (!(error instanceof ActivityFailure || error instanceof ApplicationFailure)) throw error;
    this.status = { ...this.status, last_error: describeFailure(error), progress: null };
    const isInput = error instanceof ApplicationFailure && error.type === 'invalid_input';
    if (!isInput && !this.recorded) await CancellationScope.nonCancellable(() => this.record(false));
    this.become('failed');
  }

  private async record(passed: boolean): Promise<void> {
    this.recorded = true;
    const { evidence, last_error } = this.status;
    const record = {
      id: workflowInfo().runId,
      backup: this.backup?.id ?? null,
      // Where none was found: what was asked for.
      type: this.backup?.type ?? (this.input.backup ? null : (this.input.type ?? 'database')),
      source: this.backup?.source ?? this.input.source ?? null,
      destination: this.backup?.destination ?? null,
      startedAt: this.startedAt,
      endedAt: new Date().toISOString(),
      passed,
      evidence,
      error: passed ? null : last_error,
    };
    await untilDone(
      () => recordDrill(record),
      (outage) => this.tell(`${last_error ?? 'passed'}; the evidence cannot be kept yet: ${outage}`),
    );
    this.tell(last_error);
  }

  private tell(last_error: string | null): void {
    this.status = { ...this.status, last_error, progress: null };
    this.show();
  }

  private become(state: RestoreDrillStatus['state']): void {
    this.status = { ...this.status, state, since: new Date().toISOString() };
    this.show();
  }

  private show(): void {
    const { state, backup, source, evidence, last_error } = this.status;
    const of = backup ? ` · ${backup} of ${source}` : '';
    const found = evidence
      ? ` · ${evidence.found} rows or entries in ${evidence.compared} places, ${drillFaults(evidence).length} faults, ${evidence.seconds} s`
      : '';
    setCurrentDetails(`**${state}**${of}${found}${last_error ? `\n\n${last_error}` : ''}`);
  }
}
