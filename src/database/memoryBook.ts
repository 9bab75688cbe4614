import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import {
  MAX_MEMORY_BYTES,
  MAX_SYNC_ATTEMPTS,
  type PendingMemory,
  type TenantDepth,
} from '../domain/memories.ts';
import { writeMemoryLetters } from './deadLetters.ts';
import { inTransaction, type Queryable } from './postgres.ts';

/** The channel by which writers wake the sync while it waits. */
export const MEMORY_CHANNEL = 'somaagent_memory';

const PENDING = 'NOT synced AND dead_at IS NULL';

/** Where a claim goes on in the ring of tenants; null: at the beginning. */
export type TenantCursor = string | null;

/** One claim: of so many tenants, and of each the first rows, by number and by bytes. The first row always comes. */
const CLAIM_TENANTS = 64;
const CLAIM_ROWS = 300;
const CLAIM_TENANT_BYTES = 1_000_000;
const CLAIM_BYTES = 8_000_000;

/**
 * The next rows of the next tenants behind ($1, $2) in the order of the index, without tenants $3.
 *
 * `heads` walks the index from tenant to tenant, one look-up each, only as far as tenants are taken from it. A tenant
 * whose first row is not due is passed over, and so is what is behind a row that is not due. Of each tenant both running
 * sums are taken in the order of the index: the first, of stored (compressed) sizes, keeps large payloads for which there
 * is no room from being read at all. OFFSET 0 keeps payload::text from being made several times.
 */
const CLAIM = `
  WITH RECURSIVE heads AS (
    (SELECT tenant_id, next_attempt_at FROM public.core_pendingmemory
     WHERE ${PENDING} AND (tenant_id, sync_seq) > ($1::text, $2::bigint)
     ORDER BY tenant_id, sync_seq LIMIT 1)
    UNION ALL
    SELECT head.tenant_id, head.next_attempt_at FROM heads CROSS JOIN LATERAL (
      SELECT tenant_id, next_attempt_at FROM public.core_pendingmemory
      WHERE ${PENDING} AND (tenant_id, sync_seq) > (heads.tenant_id, 9223372036854775807)
      ORDER BY tenant_id, sync_seq LIMIT 1) AS head
  ), turns AS MATERIALIZED (
    SELECT tenant_id FROM heads
    WHERE coalesce(next_attempt_at <= now(), true) AND tenant_id <> ALL($3::text[])
    LIMIT ${CLAIM_TENANTS}
  )
  SELECT tenant_id AS tenant, namespace, id, idempotency_key AS key, sync_attempts AS attempts, bytes,
    to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS "createdAt",
    CASE WHEN bytes <= ${MAX_MEMORY_BYTES} THEN value END AS payload
  FROM (
    SELECT *, sum(bytes) OVER (ORDER BY tenant_id, sync_seq ROWS UNBOUNDED PRECEDING) AS total
    FROM (
      SELECT *, octet_length(value) AS bytes,
        sum(octet_length(value)) OVER (PARTITION BY tenant_id ORDER BY sync_seq ROWS UNBOUNDED PRECEDING) AS running
      FROM (
        SELECT due.*, due.payload::text AS value FROM turns CROSS JOIN LATERAL (
          SELECT *, sum(pg_column_size(payload)) OVER upto AS stored,
            bool_and(coalesce(next_attempt_at <= now(), true)) OVER upto AS is_due
          FROM (
            SELECT * FROM public.core_pendingmemory
            WHERE ${PENDING} AND tenant_id = turns.tenant_id ORDER BY sync_seq LIMIT ${CLAIM_ROWS}
          ) AS first
          WINDOW upto AS (ORDER BY sync_seq ROWS UNBOUNDED PRECEDING)
        ) AS due
        WHERE is_due AND stored - pg_column_size(due.payload) <= ${CLAIM_TENANT_BYTES}
        OFFSET 0
      ) AS memory
    ) AS bounded
    WHERE running <= ${CLAIM_TENANT_BYTES} OR running = bytes
  ) AS claim
  WHERE total <= ${CLAIM_BYTES} OR total = bytes
  ORDER BY tenant_id, sync_seq`;

const LEAST_SEQ = '-9223372036854775808';
const GREATEST_SEQ = '9223372036854775807';

export interface RejectedMemory {
  id: string;
  reason: string;
}

export interface MemoryTotals {
  synced: number;
  dead: number;
}

/**
 * The queue of memories and the sync's book in Postgres, as their owner sees them. Every write checks the epoch that
 * `takeOver` raised: a sync that was replaced marks nothing (`relay_fenced`), however late it wakes up.
 */
export class MemoryBook {
  private readonly client: pg.ClientBase;
  private readonly epoch: string;

  private constructor(client: pg.ClientBase, epoch: string) {
    this.client = client;
    this.epoch = epoch;
  }

  /** Raises the epoch: from here on the former owner can write nothing. */
  static async takeOver(client: pg.ClientBase, owner: string): Promise<MemoryBook> {
    // As for the outbox: the statistics of a queue are always wrong, and one scan over years of synced rows would stall
    // it; and a sync that freezes inside a transaction must not keep its successor out.
    await client.query('SET enable_seqscan = off; SET enable_bitmapscan = off');
    await client.query(`SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '10s'`);
    const { rows } = await client.query<{ epoch: string }>(
      `UPDATE orchestrator.memory_sync SET epoch = epoch + 1, owner = $1, taken_at = now(), waiting = false
       RETURNING epoch`,
      [owner],
    );
    return new MemoryBook(client, rows[0]!.epoch);
  }

  /** The next memories, grouped by tenant and in order; `cursor` is where the next claim goes on. */
  async claim(
    cursor: TenantCursor,
    without: string[],
  ): Promise<{ memories: PendingMemory[]; cursor: TenantCursor }> {
    const { rows: memories } = await this.client.query<PendingMemory>({
      name: 'memories-claim',
      text: CLAIM,
      values: [cursor ?? '', cursor === null ? LEAST_SEQ : GREATEST_SEQ, without],
    });
    return { memories, cursor: memories.at(-1)?.tenant ?? null };
  }

  /** Writes down what is stored, and counts it in the same commit. @throws OrchestratorError relay_fenced */
  async synced(ids: string[]): Promise<void> {
    if (ids.length === 0) return;
    const { rowCount } = await this.client.query({
      name: 'memories-synced',
      text: `
        WITH owner AS MATERIALIZED (
          SELECT FROM orchestrator.memory_sync WHERE epoch = $2 FOR NO KEY UPDATE
        ), marked AS (
          UPDATE public.core_pendingmemory
          SET synced = true, synced_at = now(), last_error = NULL, next_attempt_at = NULL
          FROM owner WHERE id = ANY($1::uuid[]) AND ${PENDING}
          RETURNING id
        )
        UPDATE orchestrator.memory_sync SET synced_total = synced_total + (SELECT count(*) FROM marked) WHERE epoch = $2`,
      values: [ids, this.epoch],
    });
    if (rowCount !== 1) throw fenced();
  }

  /**
   * Spends an attempt of each: due again after 2^attempts seconds, its tenant waits for it. After the last one it is
   * dead, with its letter written in the same commit. Returns how many died. @throws OrchestratorError relay_fenced
   */
  rejected(memories: RejectedMemory[]): Promise<number> {
    return inTransaction(this.client, async () => {
      const { rows } = await this.client.query<{ id: string; reason: string; dead: boolean }>(
        `WITH owner AS MATERIALIZED (
           SELECT FROM orchestrator.memory_sync WHERE epoch = $3 FOR NO KEY UPDATE
         )
         UPDATE public.core_pendingmemory AS memory
         SET sync_attempts = least(sync_attempts, 2147483646) + 1, last_error = reason,
           dead_at = CASE WHEN sync_attempts + 1 >= ${MAX_SYNC_ATTEMPTS} THEN now() END,
           next_attempt_at = CASE WHEN sync_attempts + 1 < ${MAX_SYNC_ATTEMPTS}
             THEN now() + make_interval(secs => 2 ^ greatest(sync_attempts + 1, 1)) END
         FROM owner, unnest($1::uuid[], $2::text[]) AS rejected (id, reason)
         WHERE memory.id = rejected.id AND ${PENDING}
         RETURNING memory.id, reason, dead_at IS NOT NULL AS dead`,
        [memories.map(({ id }) => id), memories.map(({ reason }) => reason), this.epoch],
      );
      const dead = rows.filter((row) => row.dead);
      await writeMemoryLetters(this.client, dead);
      await this.countDead(dead.length);
      return dead.length;
    });
  }

  /** Whether writers shall wake the sync (their trigger reads it). Not worth an fsync. @throws OrchestratorError relay_fenced */
  async setWaiting(waiting: boolean): Promise<void> {
    await inTransaction(this.client, async () => {
      await this.client.query('SET LOCAL synchronous_commit = off');
      const { rowCount } = await this.client.query(
        'UPDATE orchestrator.memory_sync SET waiting = $2 WHERE epoch = $1',
        [this.epoch, waiting],
      );
      if (rowCount !== 1) throw fenced();
    });
  }

  /** When a person last asked for a try at once; null: never. */
  async hurriedAt(): Promise<string | null> {
    const { rows } = await this.client.query<{ hurried: string | null }>(
      'SELECT hurried_at::text AS hurried FROM orchestrator.memory_sync',
    );
    return rows[0]?.hurried ?? null;
  }

  private async countDead(dead: number): Promise<void> {
    const { rowCount } = await this.client.query(
      'UPDATE orchestrator.memory_sync SET dead_total = dead_total + $2 WHERE epoch = $1',
      [this.epoch, dead],
    );
    if (rowCount !== 1) throw fenced();
  }
}

const fenced = () => new OrchestratorError('relay_fenced', 'another worker has taken over the memory sync');

/** Asks the running sync, whoever has it, to try SomaBrain now. */
export async function hurryMemories(client: Queryable): Promise<void> {
  await client.query('UPDATE orchestrator.memory_sync SET hurried_at = clock_timestamp()');
  await client.query(`NOTIFY ${MEMORY_CHANNEL}`);
}

export interface MemoryBacklog {
  pending: number;
  oldestSeconds: number;
  totals: MemoryTotals;
  tenants: TenantDepth[];
}

/** Counting stops here: beyond this number only the growth matters. */
const COUNT_LIMIT = 100_000;
const TOP_TENANTS = 10;

/**
 * What waits, by the partial index: the cost grows with the backlog and not with the table. A tenant's first memory is
 * its oldest, so that one look-up for each tenant (up to 100,000) finds the oldest of all.
 */
export async function readMemoryBacklog(client: Queryable): Promise<MemoryBacklog> {
  const { rows } = await client.query<{
    pending: number;
    oldest: number;
    synced: string;
    dead: string;
    tenants: TenantDepth[];
  }>(
    `WITH RECURSIVE heads AS (
       (SELECT tenant_id, created_at FROM public.core_pendingmemory
        WHERE ${PENDING} ORDER BY tenant_id, sync_seq LIMIT 1)
       UNION ALL
       SELECT head.tenant_id, head.created_at FROM heads CROSS JOIN LATERAL (
         SELECT tenant_id, created_at FROM public.core_pendingmemory
         WHERE ${PENDING} AND (tenant_id, sync_seq) > (heads.tenant_id, ${GREATEST_SEQ})
         ORDER BY tenant_id, sync_seq LIMIT 1) AS head
     ), first AS (SELECT created_at FROM heads LIMIT ${COUNT_LIMIT}
     ), pending AS MATERIALIZED (
       SELECT tenant_id, count(*)::int AS pending
       FROM (SELECT tenant_id FROM public.core_pendingmemory
             WHERE ${PENDING} ORDER BY tenant_id, sync_seq LIMIT ${COUNT_LIMIT}) AS waiting
       GROUP BY tenant_id
     )
     SELECT coalesce((SELECT sum(pending) FROM pending), 0)::int AS pending,
       greatest(0, extract(epoch FROM now() - coalesce((SELECT min(created_at) FROM first), now())))::float8 AS oldest,
       synced_total AS synced, dead_total AS dead,
       coalesce((SELECT jsonb_agg(jsonb_build_object('tenant', tenant_id, 'pending', pending))
         FROM (SELECT * FROM pending ORDER BY pending DESC, tenant_id LIMIT ${TOP_TENANTS}) AS top), '[]') AS tenants
     FROM orchestrator.memory_sync`,
  );
  const { pending, oldest, synced, dead, tenants } = rows[0]!;
  return {
    pending,
    oldestSeconds: oldest,
    totals: { synced: Number(synced), dead: Number(dead) },
    tenants,
  };
}
