import {
  ActivityFailure,
  ApplicationFailure,
  isCancellation,
  sleep,
  TimeoutFailure,
} from '@temporalio/workflow';
import { MAX_WORKER_DEATHS, RETRY_WAITS_SECONDS } from '../domain/backups.ts';

/**
 * Runs a long activity until one try succeeds. A worker that died or stopped spends none of the tries: another one
 * begins again at once. What no retry can mend, and the last failure, are thrown.
 */
export async function tryHard<T>(run: () => Promise<T>, onFailure: (error: string) => void): Promise<T> {
  let failures = 0;
  for (let deaths = 0; ; ) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof ActivityFailure) || isCancellation(error)) throw error;
      onFailure(describeFailure(error));
      if (isWorkersEnd(error)) {
        deaths += 1;
        if (deaths > MAX_WORKER_DEATHS) throw error;
        continue;
      }
      const wait = isFinal(error) ? undefined : RETRY_WAITS_SECONDS[failures];
      if (wait === undefined) throw error;
      failures += 1;
      await sleep(wait * 1000, { summary: `until the next try, after ${failures} that failed` });
    }
  }
}

/** Of the waits between the tries of a short step; each wait and try is history. */
const MAX_WAIT_SECONDS = 300;

/**
 * Runs a short step until it is done: an outage of Postgres or of a destination lasts as long as it lasts, and is told.
 * What no retry can mend is thrown.
 */
export async function untilDone<T>(run: () => Promise<T>, onFailure: (error: string) => void): Promise<T> {
  for (let wait = 1; ; wait = Math.min(wait * 2, MAX_WAIT_SECONDS)) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof ActivityFailure) || isCancellation(error) || isFinal(error)) throw error;
      onFailure(describeFailure(error));
      await sleep(wait * 1000, { summary: 'until the next try' });
    }
  }
}

const isWorkersEnd = ({ cause }: ActivityFailure): boolean =>
  cause instanceof ApplicationFailure
    ? cause.type === 'worker_stopped'
    : cause instanceof TimeoutFailure && cause.timeoutType === 'HEARTBEAT';

const isFinal = ({ cause }: ActivityFailure): boolean =>
  cause instanceof ApplicationFailure && cause.nonRetryable === true;

/** As in every status: the code, then the message. */
export function describeFailure(error: unknown): string {
  const told = error instanceof ActivityFailure && error.cause ? error.cause : error;
  if (told instanceof ApplicationFailure) return `${told.type}: ${told.message}`;
  if (told instanceof TimeoutFailure && told.timeoutType === 'HEARTBEAT')
    return 'the worker ended: another one begins again';
  return told instanceof Error ? told.message : String(told);
}
