import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  patched,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { OutboxActivities } from '../activities/outbox.ts';
import {
  type OutboxRelayReport,
  type OutboxRelayState,
  type OutboxRelayStatus,
  RELAY_REPORT_SIGNAL,
  relayTaskQueue,
  relayWorkflowId,
  shardOfWorkflowId,
} from '../domain/outbox.ts';

export const relayStatusQuery = defineQuery<OutboxRelayStatus>('status');
export const pauseRelaySignal = defineSignal('pause');
export const resumeRelaySignal = defineSignal('resume');
export const relayReportSignal = defineSignal<[OutboxRelayReport]>(RELAY_REPORT_SIGNAL);

/** Nothing is needed to start a relay: its shard is in the workflow's id. The fields are those of its former run. */
export interface OutboxRelayInput {
  status?: OutboxRelayStatus;
  /** Leaves for a new run at this many events, for tests; by default Temporal's own suggestion decides. */
  historyLimit?: number;
}

/** How long one activity relays: the bound within which a shard can move to a worker that has joined. */
const RUN_SECONDS = 60;

/** Since 2026-11 a pause ends the relay that lingers after its run. */
const END_RELAY = 'end-relay';

/**
 * Relays one shard of the outbox for ever. The work is in one long activity; this workflow keeps what must outlive a
 * worker: that the shard is relayed at all, the wait while Kafka or Postgres is away, pause and resume, the status.
 */
export async function outboxRelay(input: OutboxRelayInput = {}): Promise<void> {
  const shard = checkedShard();
  const relay = new Relay(shard, checked(shard, input));

  setHandler(relayStatusQuery, () => relay.status, {
    description: 'what the shard is doing, its totals, its last error',
  });
  setHandler(pauseRelaySignal, () => relay.pause(), {
    description: 'finishes the batch under way, then delivers no more',
  });
  setHandler(resumeRelaySignal, () => relay.resume(), { description: 'delivers again' });
  setHandler(relayReportSignal, (report) => {
    // Anybody can send a signal; one that makes no sense must not become a failing workflow task.
    if (isReport(report)) relay.accept(report);
  });

  while (relay.isPausing || !isHistoryLong(input.historyLimit)) {
    if (relay.isPausing) await relay.comeToRest();
    else if (relay.paused) await condition(() => !relay.paused || isHistoryLong(input.historyLimit));
    else await relay.runOnce();
  }
  // No handler waits for anything, so none is under way.
  await continueAsNew<typeof outboxRelay>({ ...input, status: relay.status });
}

class Relay {
  status: OutboxRelayStatus;
  paused: boolean;
  private running: CancellationScope | undefined;
  private readonly relayOutbox: OutboxActivities['relayOutbox'];
  private readonly endRelay: OutboxActivities['endRelay'];

  constructor(shard: number, { status }: OutboxRelayInput) {
    this.status = status ?? {
      state: 'idle',
      shard,
      delivered_total: 0,
      batches_total: 0,
      parked: 0,
      last_error: null,
      since: new Date().toISOString(),
    };
    this.paused = this.status.state === 'paused';
    ({ relayOutbox: this.relayOutbox } = proxyActivities<OutboxActivities>({
      taskQueue: relayTaskQueue(workflowInfo().taskQueue),
      startToCloseTimeout: '3 minutes',
      // A worker that dies is noticed within this time; its successor takes the shard over.
      heartbeatTimeout: '8 seconds',
      // Outages last as long as they last: no limit on attempts, and back within seconds of the return.
      retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '5 seconds' },
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      summary: `shard ${shard}`,
    }));
    ({ endRelay: this.endRelay } = proxyActivities<OutboxActivities>({
      taskQueue: relayTaskQueue(workflowInfo().taskQueue),
      scheduleToCloseTimeout: '20 seconds',
      retry: { maximumAttempts: 3 },
      summary: `shard ${shard}`,
    }));
  }

  /** A pause was asked for, and something may still be delivered. */
  get isPausing(): boolean {
    return this.paused && this.status.state !== 'paused';
  }

  async runOnce(): Promise<void> {
    const scope = new CancellationScope();
    this.running = scope;
    try {
      this.accept(
        await scope.run(() => this.relayOutbox({ shard: this.status.shard, runSeconds: RUN_SECONDS })),
      );
    } catch (error) {
      const stopped = stopReason(error);
      if (stopped !== undefined) this.pause(stopped);
      // However the activity of a paused relay ended (it may have failed on its way out), it was asked to. A workflow
      // that is cancelled as a whole ends.
      else if (!scope.consideredCancelled || CancellationScope.current().consideredCancelled) throw error;
    } finally {
      this.running = undefined;
    }
  }

  /** A relay lingers after its run: it has ended when the shard is said to be paused. */
  async comeToRest(): Promise<void> {
    if (patched(END_RELAY)) {
      try {
        await this.endRelay(this.status.shard);
      } catch (error) {
        // Without Postgres no relay goes on, and without a worker there is none.
        if (CancellationScope.current().consideredCancelled) throw error;
      }
    }
    if (this.paused) this.become('paused');
  }

  pause(reason: string | null = null): void {
    this.paused = true;
    if (reason !== null) this.status = { ...this.status, last_error: reason };
    this.running?.cancel();
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.status = { ...this.status, last_error: null };
    this.become('idle');
  }

  accept({ state, totals, parked, lastError }: OutboxRelayReport): void {
    const { delivered, batches } = totals ?? {
      delivered: this.status.delivered_total,
      batches: this.status.batches_total,
    };
    this.status = {
      ...this.status,
      delivered_total: delivered,
      batches_total: batches,
      parked,
      last_error: lastError,
    };
    // A report may arrive after the activity that sent it has ended.
    if (!this.paused || this.running) this.become(state);
  }

  private become(state: OutboxRelayState): void {
    if (state !== this.status.state) this.status = { ...this.status, state, since: new Date().toISOString() };
    const { delivered_total, parked, last_error } = this.status;
    setCurrentDetails(
      `**${state}** · ${delivered_total} delivered · ${parked} parked${last_error ? `\n\n${last_error}` : ''}`,
    );
  }
}

/** A shard whose books in Postgres and Kafka contradict one another stops until a person has decided. */
function stopReason(error: unknown): string | undefined {
  const cause = error instanceof ActivityFailure ? error.cause : undefined;
  return cause instanceof ApplicationFailure && cause.type === 'shard_stopped' ? cause.message : undefined;
}

function isHistoryLong(limit: number | undefined): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || (limit !== undefined && historyLength >= limit);
}

function checkedShard(): number {
  const { workflowId } = workflowInfo();
  const shard = shardOfWorkflowId(workflowId);
  if (shard !== undefined) return shard;
  throw invalidInput(
    `workflow id "${workflowId}" names no shard: expected ${relayWorkflowId(0)}, ${relayWorkflowId(1)} and so on`,
  );
}

const STATES: unknown[] = ['delivering', 'idle', 'paused', 'waiting'] satisfies OutboxRelayState[];
/** A run has three events before its first line: with fewer it would only ever continue as new. */
const MIN_HISTORY = 5;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function isReport(report: unknown): report is OutboxRelayReport {
  if (!isObject(report) || report.state === 'paused' || !STATES.includes(report.state)) return false;
  const { totals, parked, lastError } = report;
  const counted = totals === null || (isObject(totals) && areNumbers(totals.delivered, totals.batches));
  return counted && areNumbers(parked) && (lastError === null || typeof lastError === 'string');
}

function isStatusOf(shard: number, status: unknown): status is OutboxRelayStatus {
  if (!isObject(status) || status.shard !== shard || !STATES.includes(status.state)) return false;
  return areNumbers(status.delivered_total, status.batches_total, status.parked);
}

const areNumbers = (...values: unknown[]): boolean => values.every((value) => typeof value === 'number');

function checked(shard: number, input: unknown): OutboxRelayInput {
  if (!isObject(input)) {
    throw invalidInput(`outboxRelay takes no input, or an object: got ${JSON.stringify(input)}`);
  }
  const { status, historyLimit } = input as OutboxRelayInput;
  if (historyLimit !== undefined && !(Number.isInteger(historyLimit) && historyLimit >= MIN_HISTORY)) {
    throw invalidInput(
      `historyLimit must be a whole number from ${MIN_HISTORY} on: got ${JSON.stringify(historyLimit)}`,
    );
  }
  if (status !== undefined && !isStatusOf(shard, status)) {
    throw invalidInput(
      `status is what an earlier run left, for a start leave it out: got ${JSON.stringify(status)}`,
    );
  }
  return input;
}

const invalidInput = (message: string) => ApplicationFailure.nonRetryable(message, 'invalid_input');
