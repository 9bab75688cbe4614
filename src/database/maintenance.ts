import type pg from 'pg';
import {
  CANCELLED_UPLOAD_DAYS,
  COUNT_BATCH_ROWS,
  HEALTH_RETENTION_DAYS,
  PURGE_BATCH_BYTES,
  PURGE_BATCH_ROWS,
  type PurgedBatch,
  type PurgeStage,
} from '../domain/maintenance.ts';
import { connect, type Queryable } from './postgres.ts';

/** What a stage deletes, in SQL. $2 is the age in days that its rows must have. */
interface Purgeable {
  table: string;
  /** The time by which an index walks the rows. */
  time: string;
  /** The walk's end: rows beyond it are too young. */
  range: string;
  /** Which of those rows go. */
  due: string;
  /** What a row keeps in storage of its own, as far as it can be large; read without fetching it. */
  bytes: string;
}

/**
 * The walk goes by created_at, because (status, created_at) has an index already; one on published_at would cost every
 * settle 10 % more. What decides is published_at, Postgres's own clock. A row is as a rule created before it is
 * published; where a writer's clock runs ahead, its rows go that much later, and never too early.
 */
const PUBLISHED: Purgeable = {
  table: 'public.core_outboxmessage',
  time: 'created_at',
  range: `status = 'published' AND created_at < now() - make_interval(days => $2)`,
  // By the row that replays it a dead letter learns that it was delivered.
  due: `status = 'published' AND published_at < now() - make_interval(days => $2) AND NOT EXISTS (
    SELECT FROM public.core_deadlettermessage AS letter WHERE letter.replay_id = message.id AND NOT letter.resolved)`,
  bytes: 'pg_column_size(payload) + pg_column_size(headers)',
};

const EXPIRED: Purgeable = {
  table: 'public.core_idempotencyrecord',
  time: 'expires_at',
  range: 'expires_at < now() - make_interval(days => $2)',
  due: 'expires_at < now() - make_interval(days => $2)',
  bytes: 'coalesce(pg_column_size(result), 0)',
};

const TRANSITIONS: Purgeable = {
  table: 'orchestrator.health_transition',
  time: 'at',
  range: 'at < now() - make_interval(days => $2)',
  due: 'at < now() - make_interval(days => $2)',
  bytes: 'coalesce(pg_column_size(error), 0)',
};

/** A row that names a tier may have bytes there: it stays until that is cleared. */
const CANCELLED: Purgeable = {
  table: 'orchestrator.upload',
  time: 'updated_at',
  range: "state = 'cancelled' AND updated_at < now() - make_interval(days => $2)",
  due: "state = 'cancelled' AND updated_at < now() - make_interval(days => $2) AND touched_tiers = '{}'",
  bytes: 'coalesce(pg_column_size(data), 0)',
};

const STAGES: Record<PurgeStage, Purgeable> = {
  published: PUBLISHED,
  idempotency: EXPIRED,
  health: TRANSITIONS,
  uploads: CANCELLED,
};

/**
 * Deletes a batch: looks at the next rows from $1 on, at most as many as a batch holds, and deletes those that are due.
 * Rows that somebody holds locked are left for another time, so a purge waits for nobody.
 */
const deleteQuery = ({ table, time, range, due, bytes }: Purgeable): string => `
  WITH seen AS MATERIALIZED (
    SELECT place, at, sum(bytes) OVER (ORDER BY at ROWS UNBOUNDED PRECEDING) - bytes AS before
    FROM (
      SELECT ctid AS place, ${time} AS at, ${bytes} AS bytes FROM ${table}
      WHERE ${time} >= $1::timestamptz AND ${range} ORDER BY ${time} LIMIT ${PURGE_BATCH_ROWS}
    ) AS next
  ), batch AS MATERIALIZED (
    SELECT place, at FROM seen WHERE before < ${PURGE_BATCH_BYTES}
  ), locked AS MATERIALIZED (
    SELECT ctid AS place FROM ${table} AS message
    WHERE ctid = ANY (ARRAY(SELECT place FROM batch)) AND ${due}
    FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM ${table} WHERE ctid = ANY (ARRAY(SELECT place FROM locked)) RETURNING 1
  )
  SELECT (SELECT count(*) FROM gone)::int AS rows, max(at)::text AS last,
    (max(at) + interval '1 microsecond')::text AS beyond,
    count(*) = ${PURGE_BATCH_ROWS} OR count(*) < (SELECT count(*) FROM seen) AS more
  FROM batch`;

/** Counts a batch. It holds all rows of its last time, so that the next one begins behind them. */
const countQuery = ({ table, time, range, due }: Purgeable): string => `
  SELECT count(*) FILTER (WHERE due)::int AS rows, (max(at) + interval '1 microsecond')::text AS last,
    (max(at) + interval '1 microsecond')::text AS beyond, count(*) >= ${COUNT_BATCH_ROWS} AS more
  FROM (
    SELECT ${time} AS at, ${due} AS due FROM ${table} AS message
    WHERE ${time} >= $1::timestamptz AND ${range} ORDER BY ${time} FETCH FIRST ${COUNT_BATCH_ROWS} ROWS WITH TIES
  ) AS next`;

/**
 * A connection for a purge. The statistics of a table that fills and drains are always wrong, so it may only walk by
 * index. A lock that is not there within a second ends the batch, nobody queues up behind it. A purge that is lost in
 * a crash is done again, so its commits need not wait for the disk.
 * @throws OrchestratorError postgres_unavailable, postgres_refused
 */
export async function connectForPurge(databaseUrl: string): Promise<pg.Client> {
  const client = await connect(databaseUrl);
  await client.query(
    `SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off;
     SET statement_timeout = '10s'; SET lock_timeout = '1s'; SET synchronous_commit = off`,
  );
  return client;
}

/**
 * Deletes the stage's next batch in one transaction, or counts it in a dry run. Published rows go that are older than
 * `retentionDays`, idempotency records that have expired, transitions of health older than HEALTH_RETENTION_DAYS, uploads
 * that were cancelled CANCELLED_UPLOAD_DAYS ago; nothing else, ever.
 */
export async function purgeBatch(
  client: Queryable,
  { stage, from }: { stage: PurgeStage; from: string },
  { dryRun, retentionDays }: { dryRun: boolean; retentionDays: number },
): Promise<PurgedBatch> {
  const query = dryRun ? countQuery : deleteQuery;
  const ages: Record<PurgeStage, number> = {
    published: retentionDays,
    idempotency: 0,
    health: HEALTH_RETENTION_DAYS,
    uploads: CANCELLED_UPLOAD_DAYS,
  };
  const { rows } = await client.query<PurgedBatch>({
    name: `purge-${stage}-${dryRun ? 'count' : 'delete'}`,
    text: query(STAGES[stage]),
    values: [from, ages[stage]],
  });
  return rows[0]!;
}

/**
 * When the first published row at or after `from` was created that is too young to go. Rows before `from` are not looked
 * at: there may be a million that were deleted and wait for vacuum.
 */
export async function oldestKept(
  client: Queryable,
  from: string,
  retentionDays: number,
): Promise<Date | null> {
  const { rows } = await client.query<{ created_at: Date }>(
    `SELECT created_at FROM public.core_outboxmessage
     WHERE status = 'published' AND created_at >= $1::timestamptz
       AND published_at >= now() - make_interval(days => $2)
     ORDER BY created_at LIMIT 1`,
    [from, retentionDays],
  );
  return rows[0]?.created_at ?? null;
}
