import { CANCELLED_UPLOAD_DAYS } from '../domain/maintenance.ts';
import { TIER_NAMES, type TierName, UPLOAD_TOPIC } from '../domain/uploads.ts';
import type { Queryable } from './postgres.ts';

/**
 * A failed upload is tried again when its dead letter is replayed, a cancelled one when somebody starts it again. Redis
 * may lose what it said it has.
 */
const NEEDS_BYTES = `(state IN ('waiting', 'failed', 'cancelled') OR tier = 'redis')`;

/** What uploads have to do with the bytes behind a reference. */
export interface ReferenceUse {
  needed: boolean;
  /** When the last of them was stored. */
  storedAt: Date | null;
}

/** Of these references; those that no upload has are not in the answer. */
export async function referencesInUse(client: Queryable, refs: string[]): Promise<Map<string, ReferenceUse>> {
  const { rows } = await client.query<{ ref: string } & ReferenceUse>({
    name: 'upload-references',
    text: `SELECT data_ref AS ref, bool_or(${NEEDS_BYTES}) AS needed, max(stored_at) AS "storedAt"
           FROM orchestrator.upload WHERE data_ref = ANY ($1::text[]) GROUP BY data_ref`,
    values: [refs],
  });
  return new Map(rows.map(({ ref, ...use }) => [ref, use]));
}

/**
 * The references of uploads that need their bytes, as far as they may be paths (`file:///…`): one file may be written in
 * many ways, also ` FILE:/x`.
 */
export async function pathsInUse(client: Queryable): Promise<string[]> {
  const { rows } = await client.query<{ ref: string }>(
    `SELECT DISTINCT data_ref AS ref FROM orchestrator.upload
     WHERE ${NEEDS_BYTES} AND data_ref !~ '^(spool:|s3://|https?://)'`,
  );
  return rows.map(({ ref }) => ref);
}

/** The references of messages that have not become uploads yet, however long the outage lasts: in the outbox, or refused. */
export async function referencesOnTheirWay(client: Queryable): Promise<Set<string>> {
  const { rows } = await client.query<{ ref: string }>(
    `SELECT payload->>'data_ref' AS ref FROM public.core_outboxmessage
     WHERE topic = $1 AND status IN ('pending', 'failed') AND payload->>'data_ref' IS NOT NULL
     UNION SELECT payload->>'data_ref' FROM public.core_deadlettermessage
     WHERE original_topic = $1 AND NOT resolved AND payload->>'data_ref' IS NOT NULL`,
    [UPLOAD_TOPIC],
  );
  return new Set(rows.map(({ ref }) => ref));
}

/** Copies that no upload needs any more. */
export interface Leftovers {
  idempotencyKey: string;
  tiers: TierName[];
}

/**
 * Copies below the one that a row names, where they could not be removed at the time, and all of what was cancelled so long
 * ago that its row goes as well. `$2`: the tiers in their order.
 */
const LEFTOVER = `
  SELECT idempotency_key AS "idempotencyKey", ARRAY(
    SELECT touched FROM unnest(touched_tiers) AS touched
    WHERE tier IS NULL OR array_position($2::text[], touched) > array_position($2::text[], tier)) AS tiers
  FROM orchestrator.upload
  WHERE idempotency_key > $1
    AND (state IN ('stored', 'promoted') AND cardinality(touched_tiers) > 1 OR state = 'cancelled' AND touched_tiers <> '{}')
    AND updated_at < now() - CASE WHEN state = 'cancelled' THEN make_interval(days => ${CANCELLED_UPLOAD_DAYS})
      ELSE make_interval(secs => $3 * 3600) END`;

/**
 * The next upload behind the key `after` with copies that nobody needs since `hours`, or undefined. Inside a transaction it
 * stays locked, so that nobody starts it again while its copies go; one that somebody else holds is left out.
 */
export async function nextLeftovers(
  client: Queryable,
  after: string,
  hours: number,
): Promise<Leftovers | undefined> {
  const { rows } = await client.query<Leftovers>({
    name: 'upload-leftovers',
    text: `${LEFTOVER} ORDER BY idempotency_key LIMIT 1 FOR UPDATE SKIP LOCKED`,
    values: [after, TIER_NAMES, hours],
  });
  return rows[0];
}
