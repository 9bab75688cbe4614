import { ApplicationFailure } from '@temporalio/common';
import { fromPostgres } from '../database/postgres.ts';
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

/** Runs a step whose only dependency is Postgres. */
export async function onPostgres<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toFailure(fromPostgres(error));
  }
}

/** As `onPostgres`, for those who wait for something in Postgres: undefined while it is away. */
export async function unlessAway<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (thrown) {
    const error = fromPostgres(thrown);
    if (error instanceof OrchestratorError && error.code === 'postgres_unavailable') return undefined;
    throw toFailure(error);
  }
}

/** Ends an activity that only waits, so that the stop does not wait for it; a second attempt goes on with the waiting. */
export const workerStops = (): ApplicationFailure =>
  ApplicationFailure.create({
    type: 'worker_stopped',
    message: 'the worker stops: another one goes on',
    nextRetryDelay: 1,
  });
