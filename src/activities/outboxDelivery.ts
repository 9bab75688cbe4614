import { activityInfo, heartbeat, log, sleep } from '@temporalio/activity';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type pg from 'pg';
import {
  chooseDeliveries,
  deliveryStarted,
  discardMessage,
  hurryMessage,
  readMessage,
  requestAttempt,
} from '../database/outboxDelivery.ts';
import { withClient } from '../database/postgres.ts';
import { describeError } from '../domain/errors.ts';
import {
  DELIVERY_REPORT_SIGNAL,
  isSettled,
  OUTBOX_DELIVERY_WORKFLOW,
  outboxDeliveryWorkflowId,
  type ParkedMessage,
} from '../domain/outboxDelivery.ts';
import { countDeadLetters } from './deadLetters.ts';
import { onPostgres, unlessAway, workerStops } from './failure.ts';

export interface OutboxDeliveryDependencies {
  pool: pg.Pool;
  /** For the reports of an activity to its own workflow. */
  temporal: Client;
  /** Aborted when the worker stops: another one goes on watching. */
  stop: AbortSignal;
}

/** The row is looked at this often at first, ever more rarely while Kafka is away. */
const MIN_POLL_MS = 250;
const MAX_POLL_MS = 2_000;
/** An attempt that takes longer is told to the workflow before its end. Most are over sooner: that spares a signal. */
const TELL_AFTER_MS = 2_000;
const MAX_SPREAD_SECONDS = 5;
/** An attempt that is due within this time is due. */
const SLACK_SECONDS = 0.5;

export function createOutboxDeliveryActivities({ pool, temporal, stop }: OutboxDeliveryDependencies) {
  return {
    /** The row as it stands, null where there is none. */
    readMessage: (id: string): Promise<ParkedMessage | null> => look(pool, id),

    /**
     * One attempt: asks the shard's relay for it, which sends the row on the same exactly-once path as any other, and
     * waits for what becomes of it. An outage makes the wait longer; it is no attempt. A row whose attempt is not due yet fails at once with the last rejection, so that Temporal's attempts
     * and those in the row are the same: the first one was the relay's. Without `release` no attempt is begun: one that
     * is under way is waited for.
     * @throws ApplicationFailure message_rejected, retryable when the row's next attempt is due
     */
    async deliverMessage(id: string, { release }: { release: boolean }): Promise<ParkedMessage | null> {
      const found = await look(pool, id);
      if (found === null || isSettled(found)) return found;
      const workflow = temporal.workflow.getHandle(activityInfo().workflowExecution!.workflowId);
      if (found.status === 'failed') {
        if (!release || found.secondsToRetry > SLACK_SECONDS) return rejected(workflow, found);
        await onPostgres(() => requestAttempt(pool, id));
      }
      const tell = () => report(workflow, { ...found, status: 'pending', nextRetryAt: null });
      const outcome = await watch(pool, found, { stop, tell });
      return outcome?.status === 'failed' ? rejected(workflow, outcome) : outcome;
    },

    /** Makes the next attempt due now. */
    hurryMessage: (id: string): Promise<void> => onPostgres(() => hurryMessage(pool, id)),

    /** Gives the message up, unless an attempt is under way; the row as it stands afterwards. */
    async discardMessage(id: string): Promise<ParkedMessage | null> {
      const dead = await onPostgres(() => withClient(pool, (client) => discardMessage(client, id)));
      if (dead) countDeadLetters(1);
      return look(pool, id);
    },
  };
}

export type OutboxDeliveryActivities = ReturnType<typeof createOutboxDeliveryActivities>;

const look = async (pool: pg.Pool, id: string): Promise<ParkedMessage | null> =>
  (await onPostgres(() => readMessage(pool, id))) ?? null;

/** Until the message is delivered, dead, or refused once more. Postgres may be away meanwhile. */
async function watch(
  pool: pg.Pool,
  { id, attempts }: ParkedMessage,
  { stop, tell }: { stop: AbortSignal; tell(): Promise<void> },
): Promise<ParkedMessage | null> {
  const since = performance.now();
  let isTold = false;
  for (let pause = MIN_POLL_MS; !stop.aborted; pause = Math.min(MAX_POLL_MS, pause * 1.5)) {
    heartbeat();
    await sleep(pause);
    const found = await unlessAway(async () => (await readMessage(pool, id)) ?? null);
    if (found === null || (found && (isSettled(found) || found.attempts > attempts))) return found;
    if (isTold || performance.now() - since < TELL_AFTER_MS) continue;
    isTold = true;
    await tell();
  }
  throw workerStops();
}

async function rejected(workflow: WorkflowHandle, message: ParkedMessage): Promise<never> {
  await report(workflow, message);
  throw ApplicationFailure.create({
    type: 'message_rejected',
    message: message.lastError ?? 'refused without a reason',
    // What was refused together is due together: the attempts are spread, and still within the relay's patience.
    nextRetryDelay: Math.max(
      1,
      Math.ceil(1000 * (message.secondsToRetry + spread(message.secondsToRetry / 4))),
    ),
  });
}

const spread = (seconds: number): number => Math.random() * Math.min(seconds, MAX_SPREAD_SECONDS);

/** News for the status; a report that Temporal cannot take is dropped, and the activity's end tells the same. */
async function report(workflow: WorkflowHandle, message: ParkedMessage): Promise<void> {
  await workflow.signal(DELIVERY_REPORT_SIGNAL, message).catch((error: unknown) => {
    log.debug('report not delivered', { error: describeError(error) });
  });
}

export interface DeliveryStarts {
  pool: pg.Pool;
  temporal: Client;
  /** Of the workflows; the relay's activities have a queue of their own. */
  taskQueue: string;
  outboxShards: number;
}

/**
 * Gives one of a shard's parked rows its delivery workflow, as long as there is room. Safe to call again and again, as it
 * is each second: twenty starts at once would keep Temporal busy for one.
 */
export async function startDeliveries(
  { pool, temporal, taskQueue, outboxShards }: DeliveryStarts,
  shard: number,
): Promise<void> {
  const [id] = await withClient(pool, (client) => chooseDeliveries(client, shard, outboxShards));
  if (id === undefined) return;
  await temporal.workflow.start(OUTBOX_DELIVERY_WORKFLOW, {
    workflowId: outboxDeliveryWorkflowId(id),
    taskQueue,
    args: [id],
    workflowIdConflictPolicy: 'USE_EXISTING',
    staticSummary: `a message that Kafka refused: tried again, until it is delivered, dead or discarded`,
  });
  await deliveryStarted(pool, id);
}
