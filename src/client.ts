import type { Client, WorkflowHandle } from '@temporalio/client';
import type { Deployment } from './database/deployment.ts';
import { type OutboxRelayStatus, relayWorkflowId } from './domain/outbox.ts';
import { outboxRelay, pauseRelaySignal, relayStatusQuery, resumeRelaySignal } from './workflows/outbox.ts';

export { type Enqueued, enqueue } from './database/outbox.ts';
export type { OutboxRelayStatus } from './domain/outbox.ts';
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
