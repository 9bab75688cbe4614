import type pg from 'pg';
import { eventually } from '../../test/support/eventually.ts';

export const KEYS = 500;
export const PAYLOAD_BYTES = 500;

/**
 * Pending rows as the tests' neighbours write them, by default in one statement: payloads of about PAYLOAD_BYTES, one
 * header.
 */
export async function fillOutbox(
  client: pg.ClientBase,
  topic: string,
  rows: number,
  perTransaction = rows,
): Promise<void> {
  for (let first = 1; first <= rows; first += perTransaction) {
    await insertRows(client, topic, first, Math.min(first + perTransaction - 1, rows));
  }
  // What was just written goes to disk now and not in the middle of the measurement.
  await client.query('CHECKPOINT');
}

async function insertRows(client: pg.ClientBase, topic: string, first: number, last: number): Promise<void> {
  await client.query(
    `INSERT INTO core_outboxmessage
       (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
     SELECT gen_random_uuid(), gen_random_uuid(), $1, 'key-' || n % ${KEYS},
       jsonb_build_object('n', n, 'text', repeat(md5(n::text), ${Math.floor(PAYLOAD_BYTES / 32)})),
       '{"content_type": "application/json"}', now(), 0, 5, 'pending'
     FROM generate_series($2::int, $3::int) AS n`,
    [topic, first, last],
  );
}

/** What the journals have counted as delivered. Reads one row a shard, so one may ask often. */
export async function delivered(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ total: string }>(
    'SELECT sum(delivered_total) AS total FROM orchestrator.outbox_journal',
  );
  return Number(rows[0]!.total);
}

export const untilDelivered = (client: pg.ClientBase, rows: number): Promise<boolean> =>
  eventually(`${rows} rows delivered`, async () => (await delivered(client)) >= rows, {
    withinMs: 180_000,
    everyMs: 50,
  });

/**
 * Rows a second between the first and the last commit that marked rows published. The rows of the first commit are not
 * counted: their delivery began before it.
 */
export async function publishedPerSecond(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ rate: number }>(
    `SELECT (sum(count) FILTER (WHERE published_at > first) / extract(epoch FROM max(published_at) - min(first)))::float8
       AS rate
     FROM (
       SELECT published_at, count(*), min(published_at) OVER () AS first
       FROM core_outboxmessage WHERE status = 'published' GROUP BY published_at
     ) AS commits`,
  );
  return rows[0]!.rate;
}
