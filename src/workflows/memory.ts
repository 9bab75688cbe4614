import {
  ActivityCancellationType,
  ApplicationFailure,
  allHandlersFinished,
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { MemoryActivities, MemoryHurryActivities } from '../activities/memory.ts';
import {
  MEMORY_REPORT_SIGNAL,
  MEMORY_WORKFLOW_ID,
  type MemorySyncReport,
  type MemorySyncState,
  type MemorySyncStatus,
  memoryTaskQueue,
} from '../domain/memories.ts';
import { isMemoryReport, memoryInputFaults } from '../domain/memoryInput.ts';

export const memoryStatusQuery = defineQuery<MemorySyncStatus>('status');
export const syncNowSignal = defineSignal('syncNow');
export const pauseMemorySignal = defineSignal('pause');
export const resumeMemorySignal = defineSignal('resume');
export const memoryReportSignal = defineSignal<[MemorySyncReport]>(MEMORY_REPORT_SIGNAL);

/** Nothing is needed to start it; the fields are those of its former run. */
export interface MemorySyncInput {
  status?: MemorySyncStatus;
  /** Leaves for a new run at this many events, for tests; by default Temporal's own suggestion decides. */
  historyLimit?: number;
}

/** How long one activity syncs: the bound within which the sync can move to another worker. */
const RUN_SECONDS = 60;

const { hurryMemories } = proxyActivities<MemoryHurryActivities>({
  startToCloseTimeout: '10 seconds',
  // What is not heard while Postgres is away is not needed: the sync begins anew when it is back.
  retry: { maximumAttempts: 3 },
});

/**
 * Brings queued memories to SomaBrain for ever. The work is in one long activity; this workflow keeps what must outlive a
 * worker: that the sync runs at all, the wait while Postgres is away, pause and resume, the status.
 */
export async function memorySync(input: MemorySyncInput = {}): Promise<void> {
  const { workflowId } = workflowInfo();
  const faults = memoryInputFaults(input);
  // Two of them would only take the sync from one another.
  if (workflowId !== MEMORY_WORKFLOW_ID) {
    faults.push(`memorySync runs once, as workflow ${MEMORY_WORKFLOW_ID}: got ${JSON.stringify(workflowId)}`);
  }
  if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
  const sync = new MemorySync(input);
  handle(sync);
  while (!isHistoryLong(input.historyLimit)) {
    if (sync.paused) await condition(() => !sync.paused || isHistoryLong(input.historyLimit));
    else await sync.runOnce();
  }
  await condition(allHandlersFinished);
  await continueAsNew<typeof memorySync>({ ...input, status: sync.status });
}

function handle(sync: MemorySync): void {
  setHandler(memoryStatusQuery, () => sync.status, {
    description: 'what waits, of which tenants, how long; totals; the last error',
  });
  setHandler(syncNowSignal, () => sync.hurry(), {
    description: 'tries SomaBrain now, instead of at the end of the wait; a pause stays a pause',
  });
  setHandler(pauseMemorySignal, () => sync.pause(), {
    description: 'finishes the calls under way, then sends no more',
  });
  setHandler(resumeMemorySignal, () => sync.resume(), { description: 'sends again' });
  setHandler(memoryReportSignal, (report) => {
    // Anybody can send a signal; one that makes no sense must not become a failing workflow task.
    if (isMemoryReport(report)) sync.accept(report);
  });
}

class MemorySync {
  status: MemorySyncStatus;
  paused: boolean;
  private running: CancellationScope | undefined;
  private readonly syncMemories: MemoryActivities['syncMemories'];

  constructor({ status }: MemorySyncInput) {
    this.status = status ?? {
      state: 'idle',
      pending: 0,
      oldest_seconds: 0,
      synced_total: 0,
      dead_total: 0,
      synced_per_second: 0,
      last_error: null,
      tenants: [],
      since: new Date().toISOString(),
    };
    this.paused = this.status.state === 'paused';
    ({ syncMemories: this.syncMemories } = proxyActivities<MemoryActivities>({
      taskQueue: memoryTaskQueue(workflowInfo().taskQueue),
      startToCloseTimeout: '3 minutes',
      // A worker that dies is noticed within this time; its successor takes over.
      heartbeatTimeout: '8 seconds',
      // Outages last as long as they last: no limit on attempts, and back within seconds of the return.
      retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '5 seconds' },
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      summary: 'queued memories to SomaBrain',
    }));
    this.describe();
  }

  async runOnce(): Promise<void> {
    const scope = new CancellationScope();
    this.running = scope;
    try {
      this.accept(await scope.run(() => this.syncMemories({ runSeconds: RUN_SECONDS })));
    } catch (error) {
      // However the activity of a paused sync ended (it may have failed on its way out), it was asked to. A workflow that
      // is cancelled as a whole ends.
      if (!scope.consideredCancelled || CancellationScope.current().consideredCancelled) throw error;
    } finally {
      this.running = undefined;
    }
    if (this.paused) this.become('paused');
  }

  async hurry(): Promise<void> {
    if (this.paused) return;
    await hurryMemories().catch(() => {});
  }

  pause(): void {
    this.paused = true;
    if (this.running) this.running.cancel();
    else this.become('paused');
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.become('idle');
  }

  accept({ state, counts, lastError }: MemorySyncReport): void {
    this.status = { ...this.status, ...counts, last_error: lastError };
    // A report may arrive after the activity that sent it has ended.
    if (!this.paused || this.running) this.become(state);
    else this.describe();
  }

  private become(state: MemorySyncState): void {
    if (state !== this.status.state) this.status = { ...this.status, state, since: new Date().toISOString() };
    this.describe();
  }

  private describe(): void {
    const { state, pending, oldest_seconds, synced_total, dead_total, last_error } = this.status;
    const backlog =
      pending > 0 ? `${pending} pending, the oldest for ${oldest_seconds} s` : 'nothing pending';
    const error = last_error ? `\n\n${last_error}` : '';
    setCurrentDetails(
      `**${state}** · ${backlog} · ${synced_total} synced · ${dead_total} dead letters${error}`,
    );
  }
}

function isHistoryLong(limit: number | undefined): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || (limit !== undefined && historyLength >= limit);
}
