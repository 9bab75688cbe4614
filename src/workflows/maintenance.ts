import {
  ActivityCancellationType,
  ActivityFailure,
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

export const maintenanceStatusQuery = defineQuery<MaintenanceStatus>('status');

/** How long one activity purges. */
const RUN_SECONDS = 60;

/**
 * Deletes published rows of the outbox that are older than the workers' SA01_OUTBOX_RETENTION_DAYS, expired idempotency
 * records, and transitions of health that are older than 30 days; with `dryRun` it counts them. Ends when nothing is left that may go, and returns its status.
 */
export async function maintenance(input: MaintenanceInput = {}): Promise<MaintenanceStatus> {
  const faults = maintenanceInputFaults(input);
  const run = new Maintenance(faults.length === 0 ? input : {});
  setHandler(maintenanceStatusQuery, () => run.status, {
    description: 'how much is deleted (in a dry run: would be), and the last error',
  });
  try {
    if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
    while (run.progress.stage !== 'done') {
      if (isHistoryLong(input.historyLimit)) {
        return await continueAsNew<typeof maintenance>({ ...input, progress: run.progress });
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

class Maintenance {
  status: MaintenanceStatus;
  progress: PurgeProgress;
  private readonly dryRun: boolean;
  private readonly purge: MaintenanceActivities['purge'];

  constructor({ dryRun = false, progress = purgeStart() }: MaintenanceInput) {
    this.dryRun = dryRun;
    this.progress = progress;
    this.status = {
      state: 'running',
      dry_run: dryRun,
      purged: completeCounts(progress.purged),
      oldest_kept: progress.oldestKept,
      last_error: null,
      since: new Date().toISOString(),
    };
    ({ purge: this.purge } = proxyActivities<MaintenanceActivities>({
      startToCloseTimeout: '3 minutes',
      heartbeatTimeout: '20 seconds',
      // After these the status tells the error, and then it is tried again, without end.
      retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumAttempts: 3 },
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      summary: dryRun ? 'counts what would go' : 'deletes in small batches',
    }));
  }

  /** One activity; in an outage, the wait before the next one. */
  async once(): Promise<void> {
    const { dryRun, progress } = this;
    try {
      this.accept(await this.purge({ dryRun, progress, runSeconds: RUN_SECONDS }), null);
    } catch (error) {
      if (!(error instanceof ActivityFailure) || isCancellation(error)) throw error;
      if (error.retryState === 'NON_RETRYABLE_FAILURE') throw error;
      this.accept(progressOf(error) ?? progress, describe(error));
      await sleep('10 seconds', { summary: 'until the next try' });
    }
  }

  accept(progress: PurgeProgress, lastError: string | null): void {
    const { purged, oldestKept } = progress;
    this.progress = progress;
    this.status = {
      ...this.status,
      purged: completeCounts(purged),
      oldest_kept: oldestKept,
      last_error: lastError,
    };
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
    const { state, dry_run, purged, last_error } = this.status;
    const verb = dry_run ? 'would be purged' : 'purged';
    setCurrentDetails(
      `**${state}** · ${purged.published} published rows, ${purged.idempotency} idempotency records and ${purged.health} transitions of health ${verb}${last_error ? `\n\n${last_error}` : ''}`,
    );
  }
}

/** As in every status: the code, then the message. */
function describe(error: ActivityFailure | ApplicationFailure): string {
  const told = (error instanceof ActivityFailure && error.cause) || error;
  return told instanceof ApplicationFailure ? `${told.type}: ${told.message}` : told.message;
}

/** How far an activity came before it failed. */
function progressOf({ cause }: ActivityFailure): PurgeProgress | undefined {
  const [progress] = cause instanceof ApplicationFailure ? (cause.details ?? []) : [];
  return isPurgeProgress(progress) ? progress : undefined;
}

function isHistoryLong(limit: number | undefined): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || (limit !== undefined && historyLength >= limit);
}
