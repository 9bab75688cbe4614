/**
 * Every error this service raises on purpose, with a stable code.
 *
 * `retryable` says what a caller may expect of a second try: an outage passes, a contradiction does not. The codes are
 * documented in docs/errors.md, and a test fails when one of them is missing there.
 */
export const errorCatalogue = {
  invalid_input: { retryable: false },
  invalid_message: { retryable: false },
  kafka_unavailable: { retryable: true },
  postgres_unavailable: { retryable: true },
  // Somebody may mend it while a relay waits; a start does not wait for that.
  postgres_refused: { retryable: true },
  batch_rejected: { retryable: true },
  message_rejected: { retryable: true },
  relay_fenced: { retryable: true },
  worker_stopped: { retryable: true },
  shard_stopped: { retryable: false },
  unknown_shard: { retryable: false },
  shard_count_mismatch: { retryable: false },
  // Its worker opens again for the new deployment, or another one has the shard already.
  deployment_changed: { retryable: true },
  command_refused: { retryable: false },
  idempotency_in_progress: { retryable: true },
  idempotency_mismatch: { retryable: false },
  // Another has the key: called again, it hands on that one's result.
  idempotency_lost: { retryable: true },
  webhook_unavailable: { retryable: true },
  webhook_refused: { retryable: false },
  storage_unavailable: { retryable: true },
  storage_refused: { retryable: false },
  // Another try reads and writes anew.
  upload_corrupt: { retryable: true },
  upload_refused: { retryable: false },
  // Nothing of the try is left.
  backup_failed: { retryable: true },
  backup_refused: { retryable: false },
  drill_failed: { retryable: false },
} as const satisfies Record<string, { retryable: boolean }>;

export type ErrorCode = keyof typeof errorCatalogue;

export class OrchestratorError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'OrchestratorError';
    this.code = code;
  }

  get retryable(): boolean {
    return errorCatalogue[this.code].retryable;
  }
}

/** One line for logs, `last_error` columns and workflow state, whatever was thrown. */
export function describeError(error: unknown): string {
  if (error instanceof OrchestratorError) return `${error.code}: ${error.message}`;
  if (error instanceof AggregateError && error.errors.length > 0) return describeError(error.errors[0]);
  if (error instanceof Error) {
    const cause = error.cause instanceof Error ? `: ${error.cause.message}` : '';
    return `${error.message || error.name}${cause}`;
  }
  return String(error);
}
