import type { Client, WorkflowHandle } from '@temporalio/client';
import type { Deployment } from './database/deployment.ts';
import type { DeadLetterReplayInput, DeadLetterReplayStatus } from './domain/deadLetters.ts';
import { HEALTH_SUMMARY, HEALTH_WORKFLOW_ID, type HealthTransition } from './domain/health.ts';
import type { ComponentName } from './domain/healthComponents.ts';
import type { Breakers, ComponentDetails, HealthStatus } from './domain/healthStatus.ts';
import { MAINTENANCE_SUMMARY, type MaintenanceStatus } from './domain/maintenance.ts';
import { MEMORY_SUMMARY, MEMORY_WORKFLOW_ID, type MemorySyncStatus } from './domain/memories.ts';
import { type OutboxRelayStatus, relayWorkflowId } from './domain/outbox.ts';
import { type OutboxDeliveryStatus, outboxDeliveryWorkflowId } from './domain/outboxDelivery.ts';
import { deadLetterReplay } from './workflows/deadLetters.ts';
import {
  breakersQuery,
  checkNowSignal,
  componentQuery,
  healthCheckCycle,
  healthHistoryQuery,
  healthStatusQuery,
  maintenanceSignal,
  pauseHealthSignal,
  resumeHealthSignal,
} from './workflows/health.ts';
import { maintenance } from './workflows/maintenance.ts';
import {
  memoryStatusQuery,
  memorySync,
  pauseMemorySignal,
  resumeMemorySignal,
  syncNowSignal,
} from './workflows/memory.ts';
import { outboxRelay, pauseRelaySignal, relayStatusQuery, resumeRelaySignal } from './workflows/outbox.ts';
import { discardSignal, type outboxDelivery, retryNowSignal } from './workflows/outboxDelivery.ts';

export { type Enqueued, enqueue } from './database/outbox.ts';
export { type ProcessOnce, processOnce } from './database/processOnce.ts';
export { type Remembered, remember } from './database/remember.ts';
export type { DeadLetterReplayInput, DeadLetterReplayStatus } from './domain/deadLetters.ts';
export type { HealthTransition, LevelName } from './domain/health.ts';
export type { ComponentName } from './domain/healthComponents.ts';
export type {
  Breakers,
  ComponentDetails,
  ComponentStatus,
  HealthStatus,
  Root,
} from './domain/healthStatus.ts';
export type { MaintenanceStatus } from './domain/maintenance.ts';
export type { MemoryStore, MemorySyncStatus } from './domain/memories.ts';
export type { Memory } from './domain/memoryFaults.ts';
export type { OutboxRelayStatus } from './domain/outbox.ts';
export type { OutboxDeliveryStatus } from './domain/outboxDelivery.ts';
export type { OutboxMessage } from './domain/outboxMessage.ts';
export { SomaBrain, type SomaBrainOptions } from './somabrain/client.ts';

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

  /** The health of all components. */
  healthCheck(): HealthCheckHandle {
    return new HealthCheckHandle(
      this.temporal.workflow.getHandle<typeof healthCheckCycle>(HEALTH_WORKFLOW_ID),
    );
  }

  /** Starts the health cycle unless it runs already; the workers do this at their start. */
  async startHealthCheck(): Promise<HealthCheckHandle> {
    const handle = await this.temporal.workflow.start(healthCheckCycle, {
      workflowId: HEALTH_WORKFLOW_ID,
      taskQueue: this.taskQueue,
      args: [],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: HEALTH_SUMMARY,
    });
    return new HealthCheckHandle(handle);
  }

  /** The way of queued memories to SomaBrain. */
  memorySync(): MemorySyncHandle {
    return new MemorySyncHandle(this.temporal.workflow.getHandle<typeof memorySync>(MEMORY_WORKFLOW_ID));
  }

  /** Starts the memory sync unless it runs already; the workers do this at their start. */
  async startMemorySync(): Promise<MemorySyncHandle> {
    const handle = await this.temporal.workflow.start(memorySync, {
      workflowId: MEMORY_WORKFLOW_ID,
      taskQueue: this.taskQueue,
      args: [],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: MEMORY_SUMMARY,
    });
    return new MemorySyncHandle(handle);
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

export class HealthCheckHandle {
  private readonly workflow: WorkflowHandle<typeof healthCheckCycle>;

  constructor(workflow: WorkflowHandle<typeof healthCheckCycle>) {
    this.workflow = workflow;
  }

  status(): Promise<HealthStatus> {
    return this.workflow.query(healthStatusQuery);
  }

  /** @throws QueryNotRegisteredError that says why: before the first cycle, or for a name that is none */
  component(name: ComponentName): Promise<ComponentDetails> {
    return this.workflow.query(componentQuery, name);
  }

  /** The last transitions, the newest first; `limit` from 1 to 200, by default 50. */
  history(limit?: number): Promise<HealthTransition[]> {
    return limit === undefined
      ? this.workflow.query(healthHistoryQuery)
      : this.workflow.query(healthHistoryQuery, limit);
  }

  breakers(): Promise<Breakers> {
    return this.workflow.query(breakersQuery);
  }

  /** Checks everything now. */
  checkNow(): Promise<void> {
    return this.workflow.signal(checkNowSignal);
  }

  pause(): Promise<void> {
    return this.workflow.signal(pauseHealthSignal);
  }

  resume(): Promise<void> {
    return this.workflow.signal(resumeHealthSignal);
  }

  /** No notices of `component` until then; checking goes on, and at the end people are told what differs. */
  maintenance(component: ComponentName | 'all', until: Date | null): Promise<void> {
    return this.workflow.signal(maintenanceSignal, { component, until: until?.toISOString() ?? null });
  }
}

export class MemorySyncHandle {
  private readonly workflow: WorkflowHandle<typeof memorySync>;

  constructor(workflow: WorkflowHandle<typeof memorySync>) {
    this.workflow = workflow;
  }

  status(): Promise<MemorySyncStatus> {
    return this.workflow.query(memoryStatusQuery);
  }

  /** Tries SomaBrain now, instead of at the end of the wait that an outage began. */
  syncNow(): Promise<void> {
    return this.workflow.signal(syncNowSignal);
  }

  /** Nothing is sent any more once `status` says paused. */
  pause(): Promise<void> {
    return this.workflow.signal(pauseMemorySignal);
  }

  resume(): Promise<void> {
    return this.workflow.signal(resumeMemorySignal);
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
  await client.startHealthCheck();
  await client.startMemorySync();
}
