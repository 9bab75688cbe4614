import type { Client } from '@temporalio/client';
import type { Deployment } from './database/deployment.ts';
import {
  type BackupStatus,
  type BackupTask,
  backupSummary,
  backupWorkflowId,
  DRILL_SUMMARY,
  type RestoreDrillInput,
  type RestoreDrillStatus,
} from './domain/backups.ts';
import type { DeadLetterReplayInput, DeadLetterReplayStatus } from './domain/deadLetters.ts';
import { HEALTH_SUMMARY, HEALTH_WORKFLOW_ID } from './domain/health.ts';
import { MAINTENANCE_SUMMARY, type MaintenanceStatus } from './domain/maintenance.ts';
import { MEMORY_SUMMARY, MEMORY_WORKFLOW_ID } from './domain/memories.ts';
import { relayWorkflowId } from './domain/outbox.ts';
import { outboxDeliveryWorkflowId } from './domain/outboxDelivery.ts';
import { uploadSummary, uploadTaskQueue, uploadWorkflowId } from './domain/uploads.ts';
import {
  HealthCheckHandle,
  JobHandle,
  MemorySyncHandle,
  OutboxDeliveryHandle,
  OutboxRelayHandle,
  UploadHandle,
} from './workflowHandles.ts';
import { backup } from './workflows/backups.ts';
import { deadLetterReplay } from './workflows/deadLetters.ts';
import { healthCheckCycle } from './workflows/health.ts';
import { maintenance } from './workflows/maintenance.ts';
import { memorySync } from './workflows/memory.ts';
import { outboxRelay } from './workflows/outbox.ts';
import { restoreDrill } from './workflows/restoreDrills.ts';
import { uploadRetry } from './workflows/uploads.ts';

export { type Enqueued, enqueue } from './database/outbox.ts';
export { type ProcessOnce, processOnce } from './database/processOnce.ts';
export { type Remembered, remember } from './database/remember.ts';
export type {
  BackupManifest,
  BackupStatus,
  BackupTask,
  RestoreDrillInput,
  RestoreDrillStatus,
} from './domain/backups.ts';
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
export type { UploadReceipt, UploadStatus } from './domain/uploads.ts';
export { type QueuedUpload, queueUpload, type UploadToQueue } from './queueUpload.ts';
export { SomaBrain, type SomaBrainOptions } from './somabrain/client.ts';

export {
  HealthCheckHandle,
  JobHandle,
  MemorySyncHandle,
  OutboxDeliveryHandle,
  OutboxRelayHandle,
  UploadHandle,
} from './workflowHandles.ts';

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

  /** The workflow of a backup, by its idempotency key. */
  backup(idempotencyKey: string): JobHandle<BackupStatus> {
    return new JobHandle(this.temporal.workflow.getHandle(backupWorkflowId(idempotencyKey)));
  }

  /**
   * Backs up now. The same key again gives the same backup, one that runs or one that is verified; one that failed or was
   * cancelled is begun anew.
   */
  async startBackup(
    task: BackupTask,
    idempotencyKey: string = crypto.randomUUID(),
  ): Promise<JobHandle<BackupStatus>> {
    const handle = await this.temporal.workflow.start(backup, {
      workflowId: backupWorkflowId(idempotencyKey),
      taskQueue: this.taskQueue,
      args: [task],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: backupSummary(task),
    });
    return new JobHandle(handle);
  }

  /** Restores the newest verified backup of the database, or the one that the input names, and compares it. */
  async startRestoreDrill(
    input: RestoreDrillInput = {},
    workflowId = `restore-drill/${crypto.randomUUID()}`,
  ): Promise<JobHandle<RestoreDrillStatus>> {
    const handle = await this.temporal.workflow.start(restoreDrill, {
      workflowId,
      taskQueue: this.taskQueue,
      args: [input],
      workflowIdConflictPolicy: 'USE_EXISTING',
      staticSummary: DRILL_SUMMARY,
    });
    return new JobHandle(handle);
  }

  /** The delivery workflow of a message, by the row's id; for one that has none there is nothing to ask or to signal. */
  outboxDelivery(messageId: string): OutboxDeliveryHandle {
    return new OutboxDeliveryHandle(this.temporal.workflow.getHandle(outboxDeliveryWorkflowId(messageId)));
  }

  /** The workflow of an upload, by its idempotency key. */
  upload(idempotencyKey: string): UploadHandle {
    return new UploadHandle(this.temporal.workflow.getHandle(uploadWorkflowId(idempotencyKey)));
  }

  /**
   * Starts the workflow of an upload that orchestrator.upload has, also of a cancelled or failed one, unless it runs.
   * `eagerly`, for a client on the connection of this process's workers: one of them begins with it at once.
   */
  async startUpload(
    idempotencyKey: string,
    filename = idempotencyKey,
    { eagerly = false } = {},
  ): Promise<UploadHandle> {
    const handle = await this.temporal.workflow.start(uploadRetry, {
      workflowId: uploadWorkflowId(idempotencyKey),
      taskQueue: uploadTaskQueue(this.taskQueue),
      args: [{ idempotency_key: idempotencyKey }],
      workflowIdConflictPolicy: 'USE_EXISTING',
      requestEagerStart: eagerly,
      staticSummary: uploadSummary(filename),
    });
    return new UploadHandle(handle);
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
