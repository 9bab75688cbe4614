import type { Client, WorkflowHandle } from '@temporalio/client';
import type { Deployment } from './database/deployment.ts';
import type { DeadLetterReplayInput, DeadLetterReplayStatus } from './domain/deadLetters.ts';
import { MAINTENANCE_SUMMARY, type MaintenanceStatus } from './domain/maintenance.ts';
import { type OutboxRelayStatus, relayWorkflowId } from './domain/outbox.ts';
import { type OutboxDeliveryStatus, outboxDeliveryWorkflowId } from './domain/outboxDelivery.ts';
import { deadLetterReplay } from './workflows/deadLetters.ts';
import { maintenance } from './workflows/maintenance.ts';
import { outboxRelay, pauseRelaySignal, relayStatusQuery, resumeRelaySignal } from './workflows/outbox.ts';
import { discardSignal, type outboxDelivery, retryNowSignal } from './workflows/outboxDelivery.ts';

export { type Enqueued, enqueue } from './database/outbox.ts';
export type { DeadLetterReplayInput, DeadLetterReplayStatus } from './domain/deadLetters.ts';
export type { MaintenanceStatus } from './domain/maintenance.ts';
export type { OutboxRelayStatus } from './domain/outbox.ts';
export type { OutboxDeliveryStatus } from './domain/outboxDelivery.ts';
export type { OutboxMessage } from './domain/outboxMessage.ts';

export const DEFAULT_TASK_QUEUE = 'somaagent-orchestrator';

/** The workflows of this service, typed, for programs that hold a Temporal client. */
export class OrchestratorClient {
  private readonly temporal: Client;
  private readonly taskQueue: string;

  constructor(temporal: Client, taskQueue = DEFAULT_TASK_QUEUE) {
    this.temporal = temporal;
    this.taskQueue = taskQueue;
  }

  /** One shard of the outbox. */
  outboxRelay(shard: number): OutboxRelayHandle {
    return new OutboxRelayHandle(
      this.temporal.workflow.getHandle<typeof outboxRelay>(relayWorkflowId(shard)),
    );
  }

  /** Starts the shard's relay unless it runs already; the workers do this at their start. */
  async startOutboxRelay(shard: number): Promise<OutboxRelayHandle> {
    const handle = await this.temporal.workflow.start(outboxRelay, {
      workflowId: relayWorkflowId(shard),
      taskQueue: this.taskQueue,
      args: [],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: `outbox shard ${shard}: core_outboxmessage to Kafka, exactly once, in order for each key`,
    });
    return new OutboxRelayHandle(handle);
  }

  /**
   * Purges now, beside the hourly Schedule; with `dryRun` it counts what a purge would delete. One of the same kind that
   * runs already is found.
   */
  async startMaintenance({ dryRun = false } = {}): Promise<JobHandle<MaintenanceStatus>> {
    const handle = await this.temporal.workflow.start(maintenance, {
      workflowId: dryRun ? 'maintenance/dry-run' : 'maintenance/now',
      taskQueue: this.taskQueue,
      args: [{ dryRun }],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: MAINTENANCE_SUMMARY,
    });
    return new JobHandle(handle);
  }

  /** The delivery workflow of a message, by the row's id; for one that has none there is nothing to ask or to signal. */
  outboxDelivery(messageId: string): OutboxDeliveryHandle {
    return new OutboxDeliveryHandle(this.temporal.workflow.getHandle(outboxDeliveryWorkflowId(messageId)));
  }

  /**
   * Sends dead letters again; without a selection, all that are unresolved. `workflowId` says which replay this is: a
   * running one of that id is found.
   */
  async replayDeadLetters(
    input: Omit<DeadLetterReplayInput, 'progress'> = {},
    workflowId = `dead-letter-replay/${crypto.randomUUID()}`,
  ): Promise<JobHandle<DeadLetterReplayStatus>> {
    const handle = await this.temporal.workflow.start(deadLetterReplay, {
      workflowId,
      taskQueue: this.taskQueue,
      args: [input],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: 'dead letters, sent again in the order of their keys',
    });
    return new JobHandle(handle);
  }
}

/** A workflow that ends by itself, with its last status as its result. */
export class JobHandle<Status> {
  private readonly workflow: WorkflowHandle<Job<Status>>;

  constructor(workflow: WorkflowHandle<Job<Status>>) {
    this.workflow = workflow;
  }

  status(): Promise<Status> {
    return this.workflow.query<Status>('status');
  }

  /** Waits for the end. @throws WorkflowFailedError if it failed or was cancelled */
  result(): Promise<Status> {
    return this.workflow.result();
  }

  /** Ends it after the step under way; what is done stays done. */
  async cancel(): Promise<void> {
    await this.workflow.cancel();
  }
}

// biome-ignore lint/suspicious/noExplicitAny: whatever a workflow takes
type Job<Status> = (...input: any[]) => Promise<Status>;

/** A message that Kafka refused, on its way to delivery or to the dead letters. */
export class OutboxDeliveryHandle extends JobHandle<OutboxDeliveryStatus> {
  private readonly delivery: WorkflowHandle<typeof outboxDelivery>;

  constructor(workflow: WorkflowHandle<typeof outboxDelivery>) {
    super(workflow);
    this.delivery = workflow;
  }

  /** Makes the next attempt now. */
  retryNow(): Promise<void> {
    return this.delivery.signal(retryNowSignal);
  }

  /** Gives the message up: it becomes a dead letter as soon as no attempt is under way. */
  discard(): Promise<void> {
    return this.delivery.signal(discardSignal);
  }
}

export class OutboxRelayHandle {
  private readonly workflow: WorkflowHandle<typeof outboxRelay>;

  constructor(workflow: WorkflowHandle<typeof outboxRelay>) {
    this.workflow = workflow;
  }

  status(): Promise<OutboxRelayStatus> {
    return this.workflow.query(relayStatusQuery);
  }

  /** Delivery has ended once `status` says paused: the batch under way is finished first. */
  pause(): Promise<void> {
    return this.workflow.signal(pauseRelaySignal);
  }

  resume(): Promise<void> {
    return this.workflow.signal(resumeRelaySignal);
  }
}

/** Starts every workflow that has to run all the time, as often as any worker likes. */
export async function startSingletons(
  temporal: Client,
  taskQueue: string,
  deployment: Deployment,
): Promise<void> {
  const client = new OrchestratorClient(temporal, taskQueue);
  for (let shard = 0; shard < deployment.outboxShards; shard += 1) await client.startOutboxRelay(shard);
}
