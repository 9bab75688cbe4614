import { randomUUID } from 'node:crypto';
import type pg from 'pg';

export interface Row {
  topic: string;
  key?: string | null;
  payload?: unknown;
  headers?: unknown;
  idempotencyKey?: string;
}

/** Writes rows as a foreign program would: plain SQL, the columns that the platform knows. Returns the rows' ids. */
export async function insertRows(client: pg.ClientBase, rows: Row[]): Promise<string[]> {
  const ids = rows.map(() => randomUUID());
  await client.query(
    `INSERT INTO core_outboxmessage
       (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
     SELECT id, idempotency_key, topic, key, payload, headers, now(), 0, 5, 'pending'
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[])
       AS row (id, idempotency_key, topic, key, payload, headers)`,
    [
      ids,
      rows.map(({ idempotencyKey }, index) => idempotencyKey ?? ids[index]),
      rows.map(({ topic }) => topic),
      rows.map(({ key }) => key ?? null),
      rows.map(({ payload }) => JSON.stringify(payload === undefined ? {} : payload)),
      rows.map(({ headers }) => JSON.stringify(headers === undefined ? {} : headers)),
    ],
  );
  return ids;
}

/** How many rows have each status. */
export async function countByStatus(client: pg.ClientBase): Promise<Record<string, number>> {
  const { rows } = await client.query<{ status: string; count: number }>(
    'SELECT status, count(*)::int AS count FROM core_outboxmessage GROUP BY status',
  );
  return Object.fromEntries(rows.map(({ status, count }) => [status, count]));
}
