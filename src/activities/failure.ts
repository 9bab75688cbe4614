import { ApplicationFailure } from '@temporalio/common';
import { OrchestratorError } from '../domain/errors.ts';

/** The edge where this service's errors become Temporal's: what a retry cannot mend is told to the workflow as such. */
export function toFailure(error: unknown, ...details: unknown[]): unknown {
  if (!(error instanceof OrchestratorError)) return error;
  return ApplicationFailure.create({
    message: error.message,
    type: error.code,
    nonRetryable: !error.retryable,
    details,
    cause: error,
  });
}
