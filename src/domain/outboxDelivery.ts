/** As the platform's column `status` has it. */
export type OutboxMessageStatus = 'pending' | 'published' | 'failed' | 'dead';

/** A row of the outbox as a delivery workflow sees it; never its payload, which does not belong into a history. */
export interface ParkedMessage {
  id: string;
  topic: string;
  key: string | null;
  status: OutboxMessageStatus;
  attempts: number;
  maxAttempts: number;
  lastError: string | null;
  /** ISO 8601; null unless a further attempt is planned. */
  nextRetryAt: string | null;
  /** By the database's clock; 0 when the attempt is due. */
  secondsToRetry: number;
}

/**
 *              due, or retryNow               Kafka takes it
 *   waiting ────────────────────▶ trying ─────────────────────▶ delivered
 *     ▲  │                          │ │
 *     └──│─── Kafka refuses it ─────┘ └── refused for the last time ──▶ dead
 *        └── discard ──▶ dead
 *
 * `gone`: there is no such row (any more).
 */
export type OutboxDeliveryState = 'waiting' | 'trying' | 'delivered' | 'dead' | 'gone';

/** `outboxDelivery`'s answer to the query `status`, and its result. */
export interface OutboxDeliveryStatus {
  state: OutboxDeliveryState;
  message_id: string;
  topic: string | null;
  key: string | null;
  attempts: number;
  max_attempts: number;
  last_error: string | null;
  /** When the next attempt is due; ISO 8601. */
  next_retry_at: string | null;
  /** A person has asked to give the message up; done as soon as no attempt is under way. */
  discarding: boolean;
}

const STATES: Record<OutboxMessageStatus, OutboxDeliveryState> = {
  failed: 'waiting',
  pending: 'trying',
  published: 'delivered',
  dead: 'dead',
};

export const deliveryState = (message: ParkedMessage | null): OutboxDeliveryState =>
  message === null ? 'gone' : (STATES[message.status] ?? 'gone');

/** Whether nothing more can become of the message. */
export const isSettled = (message: ParkedMessage | null): boolean =>
  !['waiting', 'trying'].includes(deliveryState(message));

/** The platform's schedule: 2 s after the first attempt, doubled after each, and never beyond twelve days. */
export const secondsAfterAttempt = (attempts: number): number =>
  2 ** Math.min(Math.max(attempts, 1), MAX_BACKOFF_POWER);

/** Beyond 2^43 seconds Postgres has no timestamps left. */
export const MAX_BACKOFF_POWER = 20;

export const OUTBOX_DELIVERY_WORKFLOW = 'outboxDelivery';
export const outboxDeliveryWorkflowId = (messageId: string): string => `outbox-delivery/${messageId}`;
/** The signal that carries a ParkedMessage; for the activity, not for people. */
export const DELIVERY_REPORT_SIGNAL = 'report';
