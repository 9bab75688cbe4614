import {
  ActivityCancellationType,
  ActivityFailure,
  type ActivityOptions,
  ApplicationFailure,
  continueAsNew,
  defineQuery,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type { MaintenanceActivities } from '../activities/maintenance.ts';
import type { UploadSweepActivities } from '../activities/uploadSweep.ts';
import {
  completeCounts,
  isPurgeProgress,
  type MaintenanceInput,
  type MaintenanceState,
  type MaintenanceStatus,
  maintenanceInputFaults,
  type PurgeProgress,
  purgeStart,
} from '../domain/maintenance.ts';
import { isSweep, NOTHING_SWEPT, type Sweep } from '../domain/uploadSweep.ts';

export const maintenanceStatusQuery = defineQuery<MaintenanceStatus>('status');

/** How long one activity purges. */
const RUN_SECONDS = 60;

/**
 * Deletes published rows of the outbox that are older than the workers' SA01_OUTBOX_RETENTION_DAYS, expired idempotency
 * records, transitions of health and cancelled uploads that are older than 30 days, and then what uploads left behind in
 * the tiers and in the spool; with `dryRun` it counts them. Ends when nothing is left that may go, and returns its status.
 *
 *   purge Postgres, batch by batch ──nothing is left──▶ sweep spool and tiers ──▶ done
 *
 * A tier that is away is told and left for the next time; without Postgres it waits.
 */
export async function maintenance(input: MaintenanceInput = {}): Promise<MaintenanceStatus> {
  const faults = maintenanceInputFaults(input);
  const run = new Maintenance(faults.length === 0 ? input : {});
  setHandler(maintenanceStatusQuery, () => run.status, {
    description: 'how much is deleted (in a dry run: would be), and the last error',
  });
  try {
    if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
    while (!run.isSwept) {
      if (isHistoryLong(input.historyLimit)) {
        const { progress, sweep } = run;
        return await continueAsNew<typeof maintenance>({ ...input, progress, sweep });
      }
      // Cancelled, the activity ends between two batches with a result; the next call throws the cancellation.
      await run.once();
    }
    run.become('done');
    return run.status;
  } catch (error) {
    if (isCancellation(error)) run.become('cancelled');
    else if (error instanceof ApplicationFailure || error instanceof ActivityFailure) run.fail(error);
    throw error;
  }
}

const PATIENCE: ActivityOptions = {
  heartbeatTimeout: '20 seconds',
  // After these the status tells the error, and then it is tried again, without end.
  retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumAttempts: 3 },
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
};

class Maintenance {
  status: MaintenanceStatus;
  progress: PurgeProgress;
  sweep: Sweep;
  isSwept = false;
  private readonly dryRun: boolean;
  private readonly activities: Pick<MaintenanceActivities, 'purge'> &
    Pick<UploadSweepActivities, 'sweepUploads'>;

  constructor({ dryRun = false, progress = purgeStart(), sweep = NOTHING_SWEPT }: MaintenanceInput) {
    this.dryRun = dryRun;
    this.progress = progress;
    this.sweep = sweep;
    this.status = {
      state: 'running',
      dry_run: dryRun,
      ...told(progress, sweep),
      last_error: null,
      since: new Date().toISOString(),
    };
    const summary = dryRun ? 'counts what would go' : 'deletes in small batches';
    const { purge } = proxyActivities<MaintenanceActivities>({
      ...PATIENCE,
      startToCloseTimeout: '3 minutes',
      summary,
    });
    const { sweepUploads } = proxyActivities<UploadSweepActivities>({
      ...PATIENCE,
      startToCloseTimeout: '1 hour',
      summary,
    });
    this.activities = { purge, sweepUploads };
  }

  /** One activity; in an outage, the wait before the next one. */
  async once(): Promise<void> {
    try {
      await (this.progress.stage === 'done' ? this.sweepOnce() : this.purgeOnce());
      this.tell(null);
    } catch (error) {
      if (!(error instanceof ActivityFailure) || isCancellation(error)) throw error;
      if (error.retryState === 'NON_RETRYABLE_FAILURE') throw error;
      this.progress = detailOf(error, isPurgeProgress) ?? this.progress;
      this.sweep = detailOf(error, isSweep) ?? this.sweep;
      this.tell(describe(error));
      await sleep('10 seconds', { summary: 'until the next try' });
    }
  }

  private async purgeOnce(): Promise<void> {
    const { dryRun, progress } = this;
    this.progress = await this.activities.purge({ dryRun, progress, runSeconds: RUN_SECONDS });
  }

  private async sweepOnce(): Promise<void> {
    const { dryRun, sweep } = this;
    this.sweep = await this.activities.sweepUploads({ dryRun, sweep });
    this.isSwept = true;
  }

  private tell(lastError: string | null): void {
    this.status = { ...this.status, ...told(this.progress, this.sweep), last_error: lastError };
    this.show();
  }

  fail(error: ActivityFailure | ApplicationFailure): void {
    this.status = { ...this.status, last_error: describe(error) };
    this.become('failed');
  }

  become(state: MaintenanceState): void {
    this.status = { ...this.status, state, since: new Date().toISOString() };
    this.show();
  }

  private show(): void {
    const { state, dry_run, purged, swept, unreachable, last_error } = this.status;
    const counts = [
      `${purged.published} published rows`,
      `${purged.idempotency} idempotency records`,
      `${purged.health} transitions of health`,
      `${purged.uploads} cancelled uploads`,
      `${swept.stranded} stranded copies`,
      `${swept.leftovers} copies that nobody needs`,
      `${swept.spool_files} spooled files`,
    ];
    const lines = [
      `**${state}** · ${dry_run ? 'would be removed' : 'removed'}: ${counts.join(', ')}`,
      ...Object.entries(unreachable).map(([place, reason]) => `${place} cannot be reached: ${reason}`),
      ...(last_error ? [last_error] : []),
    ];
    setCurrentDetails(lines.join('\n\n'));
  }
}

const told = ({ purged, oldestKept }: PurgeProgress, { swept, unreachable }: Sweep) => ({
  purged: completeCounts(purged),
  oldest_kept: oldestKept,
  swept,
  unreachable,
});

/** As in every status: the code, then the message. */
function describe(error: ActivityFailure | ApplicationFailure): string {
  const told = (error instanceof ActivityFailure && error.cause) || error;
  return told instanceof ApplicationFailure ? `${told.type}: ${told.message}` : told.message;
}

/** How far an activity came before it failed. */
function detailOf<T>({ cause }: ActivityFailure, isIt: (value: unknown) => value is T): T | undefined {
  const [detail] = cause instanceof ApplicationFailure ? (cause.details ?? []) : [];
  return isIt(detail) ? detail : undefined;
}

function isHistoryLong(limit: number | undefined): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || (limit !== undefined && historyLength >= limit);
}
