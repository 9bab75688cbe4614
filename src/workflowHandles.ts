import type { WorkflowHandle } from '@temporalio/client';
import type { HealthTransition } from './domain/health.ts';
import type { ComponentName } from './domain/healthComponents.ts';
import type { Breakers, ComponentDetails, HealthStatus } from './domain/healthStatus.ts';
import type { MemorySyncStatus } from './domain/memories.ts';
import type { OutboxRelayStatus } from './domain/outbox.ts';
import type { OutboxDeliveryStatus } from './domain/outboxDelivery.ts';
import type { UploadReceipt, UploadStatus } from './domain/uploads.ts';
import {
  breakersQuery,
  checkNowSignal,
  componentQuery,
  type healthCheckCycle,
  healthHistoryQuery,
  healthStatusQuery,
  maintenanceSignal,
  pauseHealthSignal,
  resumeHealthSignal,
} from './workflows/health.ts';
import {
  memoryStatusQuery,
  type memorySync,
  pauseMemorySignal,
  resumeMemorySignal,
  syncNowSignal,
} from './workflows/memory.ts';
import {
  type outboxRelay,
  pauseRelaySignal,
  relayStatusQuery,
  resumeRelaySignal,
} from './workflows/outbox.ts';
import { discardSignal, type outboxDelivery, retryNowSignal } from './workflows/outboxDelivery.ts';
import { retryUploadSignal, type uploadRetry, uploadStatusQuery } from './workflows/uploads.ts';

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

/** A file on its way to the best tier. */
export class UploadHandle {
  private readonly workflow: WorkflowHandle<typeof uploadRetry>;

  constructor(workflow: WorkflowHandle<typeof uploadRetry>) {
    this.workflow = workflow;
  }

  status(): Promise<UploadStatus> {
    return this.workflow.query(uploadStatusQuery);
  }

  /** Tries every tier now, instead of at the end of the wait. */
  retryNow(): Promise<void> {
    return this.workflow.signal(retryUploadSignal);
  }

  /** Waits until it is in the best tier. @throws WorkflowFailedError if it became a dead letter or was cancelled */
  result(): Promise<UploadReceipt> {
    return this.workflow.result();
  }

  /** What is stored stays where it is; what is not keeps its bytes in orchestrator.upload. */
  async cancel(): Promise<void> {
    await this.workflow.cancel();
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
