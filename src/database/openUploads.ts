// Uploads that are not where they belong yet.
import type { Upload } from '../domain/uploads.ts';
import type { Queryable } from './postgres.ts';

/** The uploads among `keys` that are not where they belong yet: each of them needs its workflow. */
export async function openUploads(
  client: Queryable,
  keys: string[],
): Promise<Pick<Upload, 'idempotencyKey' | 'filename'>[]> {
  const { rows } = await client.query<Pick<Upload, 'idempotencyKey' | 'filename'>>({
    name: 'uploads-open',
    text: `SELECT idempotency_key AS "idempotencyKey", filename FROM orchestrator.upload
           WHERE idempotency_key = ANY($1::text[]) AND state IN ('waiting', 'promoting')`,
    values: [keys],
  });
  return rows;
}

const STALE_AT_ONCE = 100;

/**
 * Some of the open uploads of which nothing was heard for half an hour, those first of which it was longest ago. They
 * count as heard of from now on.
 */
export async function staleUploads(
  client: Queryable,
): Promise<Pick<Upload, 'idempotencyKey' | 'filename'>[]> {
  const { rows } = await client.query<Pick<Upload, 'idempotencyKey' | 'filename'>>({
    name: 'uploads-stale',
    text: `UPDATE orchestrator.upload SET updated_at = now()
           WHERE idempotency_key IN (
             SELECT idempotency_key FROM orchestrator.upload
             WHERE state IN ('waiting', 'promoting') AND updated_at < now() - interval '30 minutes'
             ORDER BY updated_at LIMIT ${STALE_AT_ONCE} FOR UPDATE SKIP LOCKED)
           RETURNING idempotency_key AS "idempotencyKey", filename`,
  });
  return rows;
}

/** How many uploads are not where they belong yet, by state. */
export async function countOpenUploads(client: Queryable): Promise<{ waiting: number; promoting: number }> {
  const { rows } = await client.query<{ waiting: number; promoting: number }>(
    `SELECT count(*) FILTER (WHERE state = 'waiting')::int AS waiting,
       count(*) FILTER (WHERE state = 'promoting')::int AS promoting
     FROM orchestrator.upload WHERE state IN ('waiting', 'promoting')`,
  );
  return rows[0]!;
}
