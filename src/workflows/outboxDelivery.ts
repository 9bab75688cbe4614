import {
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  continueAsNew,
  defineQuery,
  defineSignal,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  TimeoutFailure,
  workflowInfo,
} from '@temporalio/workflow';
import type { OutboxDeliveryActivities } from '../activities/outboxDelivery.ts';
import {
  DELIVERY_REPORT_SIGNAL,
  deliveryState,
  isSettled,
  type OutboxDeliveryStatus,
  outboxDeliveryWorkflowId,
  type ParkedMessage,
  secondsAfterAttempt,
} from '../domain/outboxDelivery.ts';
import { UUID } from '../domain/uuid.ts';

export const deliveryStatusQuery = defineQuery<OutboxDeliveryStatus>('status');
export const retryNowSignal = defineSignal('retryNow');
export const discardSignal = defineSignal('discard');
export const deliveryReportSignal = defineSignal<[ParkedMessage]>(DELIVERY_REPORT_SIGNAL);

/**
 * Sees one message that Kafka refused to its end: delivered, dead or discarded. The row in the outbox is the truth, and
 * its shard's relay does the sending; this workflow is where the waiting is seen and steered. Temporal's retry policy
 * follows the platform's schedule, so the activity's attempts in the UI are the row's.
 */
export async function outboxDelivery(messageId: string): Promise<OutboxDeliveryStatus> {
  const id = checkedId(messageId);
  const delivery = new Delivery(id);
  setHandler(deliveryStatusQuery, () => delivery.status, {
    description: 'what the message waits for, its attempts, its last error',
  });
  setHandler(retryNowSignal, () => delivery.retryNow(), { description: 'makes the next attempt now' });
  setHandler(discardSignal, () => delivery.discard(), {
    description: 'gives the message up as soon as no attempt is under way: it becomes a dead letter',
  });
  setHandler(deliveryReportSignal, (message) => {
    if (isMessage(id, message)) delivery.accept(message);
  });
  while (!(await delivery.step())) {
    if (workflowInfo().continueAsNewSuggested && !delivery.isAsked) {
      await continueAsNew<typeof outboxDelivery>(id);
    }
  }
  return delivery.status;
}

const { readMessage, hurryMessage, discardMessage } = proxyActivities<OutboxDeliveryActivities>({
  startToCloseTimeout: '30 seconds',
  retry: { initialInterval: '1 second', maximumInterval: '10 seconds' },
});

/** After so many the row is read again; Temporal counts up to a limit, and a row may allow more. */
const ATTEMPTS_AT_ONCE = 1_000;

class Delivery {
  status: OutboxDeliveryStatus;
  private readonly id: string;
  /** Undefined until it is read, null if there is none. */
  private message: ParkedMessage | null | undefined;
  private hurrying = false;
  private waiting: CancellationScope | undefined;

  constructor(id: string) {
    this.id = id;
    this.status = {
      state: 'waiting',
      message_id: id,
      topic: null,
      key: null,
      attempts: 0,
      max_attempts: 0,
      last_error: null,
      next_retry_at: null,
      discarding: false,
    };
  }

  /** A person has asked for something that is not done yet. */
  get isAsked(): boolean {
    return this.hurrying || this.status.discarding;
  }

  /** On to the next thing that happens to the message; true when nothing more can. */
  async step(): Promise<boolean> {
    if (this.message === undefined) this.accept(await readMessage(this.id));
    if (this.status.discarding && !this.isSettled) this.accept(await discardMessage(this.id));
    if (this.hurrying && !this.isSettled) {
      this.hurrying = false;
      await hurryMessage(this.id);
    }
    if (!this.isSettled) await this.deliver();
    return this.isSettled;
  }

  private get isSettled(): boolean {
    return this.message !== undefined && isSettled(this.message);
  }

  retryNow(): void {
    this.hurrying = true;
    this.waiting?.cancel();
  }

  discard(): void {
    this.status = { ...this.status, discarding: true };
    this.waiting?.cancel();
  }

  accept(message: ParkedMessage | null): void {
    this.message = message;
    const { topic, key, attempts, maxAttempts, lastError, nextRetryAt } = message ?? {};
    this.status = {
      ...this.status,
      state: deliveryState(message),
      topic: topic ?? null,
      key: key ?? null,
      attempts: attempts ?? 0,
      max_attempts: maxAttempts ?? 0,
      last_error: lastError ?? null,
      next_retry_at: nextRetryAt ?? null,
    };
    setCurrentDetails(
      `**${this.status.state}** · attempt ${this.status.attempts} of ${this.status.max_attempts} · topic ${topic}\n\n${lastError ?? ''}`,
    );
  }

  /** All attempts that the row has left, unless a signal comes in between. */
  private async deliver(): Promise<void> {
    const scope = new CancellationScope();
    this.waiting = scope;
    try {
      this.accept(
        await scope.run(() => this.attempts().deliverMessage(this.id, { release: !this.status.discarding })),
      );
    } catch (error) {
      if (!isExpected(error, scope)) throw error;
      this.accept(await readMessage(this.id));
    } finally {
      this.waiting = undefined;
    }
  }

  private attempts() {
    const { attempts, maxAttempts, topic } = this.message!;
    const left = Math.min(Math.max(1, maxAttempts - attempts), ATTEMPTS_AT_ONCE);
    return proxyActivities<OutboxDeliveryActivities>({
      // An attempt lasts as long as Kafka is away.
      startToCloseTimeout: '30 days',
      heartbeatTimeout: '30 seconds',
      retry: {
        initialInterval: `${secondsAfterAttempt(attempts)} seconds`,
        backoffCoefficient: 2,
        maximumInterval: `${secondsAfterAttempt(Math.max(attempts, maxAttempts))} seconds`,
        // Temporal's first attempt stands for the one that the row has behind it. A message that is to be discarded
        // gets no other one than that under way.
        maximumAttempts: this.status.discarding ? 1 : left + 1,
      },
      summary: `to ${topic}`,
    });
  }
}

/**
 * The message was refused as often as Temporal was to try, the worker of the last attempt died, or a person wants
 * something else than to wait: the row says how it goes on.
 */
function isExpected(error: unknown, scope: CancellationScope): boolean {
  if (isCancellation(error)) {
    return scope.consideredCancelled && !CancellationScope.current().consideredCancelled;
  }
  const cause = error instanceof ActivityFailure ? error.cause : undefined;
  return cause instanceof TimeoutFailure || (cause instanceof ApplicationFailure && !cause.nonRetryable);
}

function checkedId(id: unknown): string {
  if (typeof id === 'string' && UUID.test(id)) return id.toLowerCase();
  throw ApplicationFailure.nonRetryable(
    `outboxDelivery takes the id of a message in core_outboxmessage, as its workflow id ${outboxDeliveryWorkflowId('{id}')} does: got ${JSON.stringify(id)}`,
    'invalid_input',
  );
}

/** Anybody can send a signal; one that makes no sense must not become a failing workflow task. */
function isMessage(id: string, message: unknown): message is ParkedMessage {
  if (typeof message !== 'object' || message === null) return false;
  const { id: reported, attempts, maxAttempts, status } = message as Partial<ParkedMessage>;
  return (
    reported === id &&
    typeof status === 'string' &&
    [attempts, maxAttempts].every((count) => typeof count === 'number')
  );
}
