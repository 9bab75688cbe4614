import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import {
  type IdempotencyPatience,
  type IdempotencyTimes,
  type IdempotentWork,
  named,
} from '../domain/idempotency.ts';
import {
  type Claim,
  claimOnce,
  complete,
  type Hold,
  hashPayload,
  lost,
  release,
  renew,
} from './idempotency.ts';
import { fromPostgres, withinReason } from './postgres.ts';

export interface ProcessOnce extends IdempotentWork, Partial<IdempotencyTimes>, IdempotencyPatience {
  /** What is asked for, anything that JSON can say: under the same key another payload is refused. */
  payload?: unknown;
}

/**
 * Runs `work` once for a key: who comes later gets the stored result, as JSON keeps it (undefined becomes null), for
 * `keepSeconds`, a day unless said. While it runs the key is held for `holdSeconds` at a time, 60 unless said; when a
 * caller dies, the next one runs once they are over. Only Postgres's clock counts.
 *
 * `signal` aborts when the key cannot be counted on any more, because another has it or Postgres was away for too long:
 * work with effects elsewhere has to end then. A caller that was frozen notices it late, and its work may run beside the
 * next caller's for a moment; its result is not stored. Work that throws gives the key up, and the next caller runs.
 *
 * Takes a pool, because the key is renewed while `work` runs: it needs a connection that `work` leaves free.
 * @throws OrchestratorError idempotency_in_progress while another is at work; idempotency_mismatch; idempotency_lost;
 * invalid_input, also for a result that is no JSON or more than a megabyte; postgres_unavailable, postgres_refused
 * @throws whatever `work` throws
 */
export async function processOnce<T>(
  pool: pg.Pool,
  { holdSeconds = 60, keepSeconds = 86_400, payload, ...asked }: ProcessOnce,
  work: (signal: AbortSignal) => T | Promise<T>,
): Promise<T> {
  const payloadHash = payload === undefined ? null : hashPayload(payload);
  const { claim, askedAt } = await claimWithin(pool, { ...asked, holdSeconds, keepSeconds, payloadHash });
  if (claim.outcome === 'completed') return claim.result as T;
  using kept = keepHold(pool, claim.hold, askedAt);
  try {
    const result = (await work(kept.signal)) ?? null;
    await store(pool, claim.hold, result, kept.signal);
    return JSON.parse(JSON.stringify(result));
  } catch (error) {
    // Where this fails too, the hold ends by itself.
    await withinReason(release(pool, claim.hold));
    throw error;
  }
}

type Settled = Exclude<Claim, { outcome: 'in_progress' }>;

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

/** `askedAt`, by this process's monotonic clock: the hold ends no sooner than its length after that. */
async function claimWithin(
  pool: pg.Pool,
  request: Parameters<typeof claimOnce>[1] & IdempotencyPatience,
): Promise<{ claim: Settled; askedAt: number }> {
  const deadline = performance.now() + (request.waitSeconds ?? 0) * 1_000;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    const askedAt = performance.now();
    const claim = await onPostgres(() => claimOnce(pool, request));
    if (claim.outcome !== 'in_progress') return { claim, askedAt };
    const left = deadline - performance.now();
    if (left <= 0) throw inProgress(request, claim.until);
    await delay(Math.min(pause, left));
  }
}

const inProgress = (work: IdempotentWork, until: Date): OrchestratorError =>
  new OrchestratorError(
    'idempotency_in_progress',
    `${named(work)} is being worked on, and held until ${until.toISOString()} unless renewed`,
  );

/** Renews a hold three times as often as it needs. `signal` aborts when the hold cannot be counted on any more. */
function keepHold(pool: pg.Pool, hold: Hold, askedAt: number): Disposable & { signal: AbortSignal } {
  const holdMs = hold.holdSeconds * 1_000;
  const over = new AbortController();
  const done = new AbortController();
  const endAt = (moment: number) =>
    setTimeout(() => over.abort(lost(hold, 'could not be renewed in time')), moment - performance.now());
  let end = endAt(askedAt + holdMs);
  const renewing = async () => {
    while (!over.signal.aborted) {
      await delay(holdMs / 3, undefined, { signal: done.signal });
      const renewedAt = performance.now();
      await renew(pool, hold).then(
        () => {
          clearTimeout(end);
          if (!done.signal.aborted) end = endAt(renewedAt + holdMs);
        },
        (error) => isLost(error) && over.abort(error),
      );
    }
  };
  renewing().catch(() => {});
  return {
    signal: over.signal,
    [Symbol.dispose]() {
      done.abort();
      clearTimeout(end);
    },
  };
}

const isLost = (error: unknown): boolean =>
  error instanceof OrchestratorError && error.code === 'idempotency_lost';

const STORE_PAUSE_MS = 200;

/** The work is done: an outage is waited out for as long as the hold can be counted on. */
async function store(pool: pg.Pool, hold: Hold, result: unknown, signal: AbortSignal): Promise<void> {
  for (;;) {
    try {
      return await onPostgres(() => complete(pool, hold, result));
    } catch (error) {
      const away = error instanceof OrchestratorError && error.code === 'postgres_unavailable';
      if (!away || signal.aborted) throw error;
      await delay(STORE_PAUSE_MS);
    }
  }
}

async function onPostgres<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fromPostgres(error);
  }
}
