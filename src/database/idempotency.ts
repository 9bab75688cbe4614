import { createHash, randomUUID } from 'node:crypto';
import { canonicalJson } from '../domain/canonicalJson.ts';
import { OrchestratorError } from '../domain/errors.ts';
import {
  type IdempotencyRecord,
  type IdempotencyTimes,
  type IdempotentWork,
  idempotencyFaults,
  type MetRecord,
  meet,
  named,
  resultFault,
} from '../domain/idempotency.ts';
import { jsonFault } from '../domain/storable.ts';
import type { Queryable } from './postgres.ts';

/** A claimed key. Whoever has it may run, and is the only one to complete it until another claims the key. */
export interface Hold extends IdempotentWork, IdempotencyTimes {
  holder: string;
}

export type Claim = { outcome: 'run'; hold: Hold } | MetRecord;

/**
 * One reading of Postgres's clock decides everything; no caller's clock is asked. A record that has not expired is only
 * read. Otherwise the key is taken, by a new row or over the expired one, and of all who try at once one succeeds.
 */
const CLAIM = `
  WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now), live AS MATERIALIZED (
    SELECT operation_type AS operation, CASE WHEN own THEN payload_hash END AS "payloadHash",
      NOT own OR completed_at IS NOT NULL AS completed, result, expires_at AS until
    FROM clock, public.core_idempotencyrecord, LATERAL (SELECT own_expires_at IS NOT DISTINCT FROM expires_at AS own)
    WHERE idempotency_key = $1 AND expires_at > clock.now
  ), claimed AS (
    INSERT INTO public.core_idempotencyrecord AS expired
      (id, idempotency_key, operation_type, created_at, expires_at, payload_hash, holder, own_expires_at)
    SELECT $3, $1, $2, now, now + make_interval(secs => $4), $5, $3, now + make_interval(secs => $4)
    FROM clock WHERE NOT EXISTS (SELECT FROM live)
    ON CONFLICT (idempotency_key) DO UPDATE SET operation_type = excluded.operation_type, result = NULL,
      created_at = excluded.created_at, expires_at = excluded.expires_at, payload_hash = excluded.payload_hash,
      holder = excluded.holder, completed_at = NULL, own_expires_at = excluded.own_expires_at
    WHERE expired.expires_at <= excluded.created_at
    RETURNING 1
  )
  SELECT EXISTS (SELECT FROM claimed) AS claimed, (SELECT to_jsonb(live) FROM live) AS record`;

/** What every later statement of a holder asks for: that the key is still its own, and that no neighbour took it. */
const HELD = 'idempotency_key = $1 AND holder = $2 AND own_expires_at = expires_at';

/**
 * Claims a key, so that of all callers one runs. In a transaction of the caller's own, others wait until it ends: claim
 * outside of one. The hold counts from the call on; work that takes longer has to `renew` it.
 * @throws OrchestratorError invalid_input; idempotency_mismatch, if the key is in use for another operation or payload
 */
export async function claimOnce(
  client: Queryable,
  work: IdempotentWork & IdempotencyTimes & { payloadHash?: string | null },
): Promise<Claim> {
  const { key, operation, holdSeconds, keepSeconds, payloadHash = null } = work;
  const faults = idempotencyFaults(work);
  if (faults.length > 0) throw new OrchestratorError('invalid_input', faults.join('; '));
  const holder = randomUUID();
  for (;;) {
    const { rows } = await client.query<{ claimed: boolean; record: IdempotencyRecord | null }>(CLAIM, [
      key,
      operation,
      holder,
      holdSeconds,
      payloadHash,
    ]);
    const { claimed, record } = rows[0]!;
    if (claimed) return { outcome: 'run', hold: { key, operation, holdSeconds, keepSeconds, holder } };
    if (record) return meet(record, { key, operation, payloadHash });
    // Another claimed it after this statement began, and what it wrote is not to be seen before the next one.
  }
}

/**
 * The sha256 of a payload's canonical JSON, in hexadecimal.
 * @throws OrchestratorError invalid_input if it is no JSON
 */
export function hashPayload(payload: unknown): string {
  const fault = jsonFault('payload', payload);
  if (fault !== '') throw new OrchestratorError('invalid_input', fault);
  return createHash('sha256').update(canonicalJson(payload)).digest('hex');
}

/** The hold begins anew, with its full length. @throws OrchestratorError idempotency_lost, if another has the key */
export async function renew(client: Queryable, hold: Hold): Promise<void> {
  const renewed = await client.query(
    `UPDATE public.core_idempotencyrecord SET expires_at = until, own_expires_at = until
     FROM (SELECT clock_timestamp() + make_interval(secs => $3) AS until) AS renewed
     WHERE ${HELD} AND completed_at IS NULL`,
    [hold.key, hold.holder, hold.holdSeconds],
  );
  if (renewed.rowCount === 0) throw lost(hold);
}

/**
 * Stores the result for `keepSeconds`; undefined becomes null. Done twice, the first result stays, which may have been
 * handed on.
 * @throws OrchestratorError invalid_input, if it is no JSON or more than a megabyte; idempotency_lost, if another has
 * claimed the key since: nothing was written
 */
export async function complete(client: Queryable, hold: Hold, result: unknown): Promise<void> {
  const stored = result ?? null;
  const fault = resultFault(stored);
  if (fault !== '') throw new OrchestratorError('invalid_input', `${fault}: ${named(hold)}`);
  const completed = await client.query(
    `UPDATE public.core_idempotencyrecord
     SET result = CASE WHEN completed_at IS NULL THEN $4::jsonb ELSE result END,
       completed_at = coalesce(completed_at, now), expires_at = until, own_expires_at = until
     FROM (SELECT now, now + make_interval(secs => $3) AS until
       FROM (SELECT clock_timestamp() AS now) AS clock) AS kept
     WHERE ${HELD}`,
    [hold.key, hold.holder, hold.keepSeconds, JSON.stringify(stored)],
  );
  if (completed.rowCount === 0) throw lost(hold);
}

/** Gives the key up, so that the next caller may run at once. A hold that is no longer one's own is left alone. */
export async function release(client: Queryable, hold: Hold): Promise<void> {
  await client.query(`DELETE FROM public.core_idempotencyrecord WHERE ${HELD} AND completed_at IS NULL`, [
    hold.key,
    hold.holder,
  ]);
}

export const lost = (hold: Hold, how = 'was claimed by another'): OrchestratorError =>
  new OrchestratorError(
    'idempotency_lost',
    `${named(hold)} ${how}, and belongs to holder ${hold.holder} no more`,
  );
