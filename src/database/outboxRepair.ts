import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import type { Journal } from '../domain/outboxTakeover.ts';
import { shardExpression } from './deployment.ts';
import { inTransaction, type Queryable } from './postgres.ts';

/** A shard's journal as anybody may read it: under no epoch, so it may change while it is looked at. */
export interface JournalEntry extends Journal {
  epoch: string;
  owner: string | null;
  takenAt: Date | null;
}

interface JournalRow {
  epoch: string;
  owner: string | null;
  taken_at: Date | null;
  settled_number: string;
  settled_batch: string | null;
  open_batch: string | null;
  open_seqs: string[] | null;
}

/** @throws OrchestratorError unknown_shard */
export async function readJournal(client: Queryable, shard: number): Promise<JournalEntry> {
  const { rows } = await client.query<JournalRow>(
    `SELECT epoch, owner, taken_at, settled_number, settled_batch, open_batch, open_seqs
     FROM orchestrator.outbox_journal WHERE shard = $1`,
    [shard],
  );
  const [row] = rows;
  if (!row) throw new OrchestratorError('unknown_shard', `shard ${shard} does not exist`);
  const { epoch, owner, taken_at: takenAt, settled_batch, open_batch, open_seqs } = row;
  const number = Number(row.settled_number);
  const open = open_batch && { number: number + 1, batchId: open_batch, seqs: open_seqs ?? [] };
  return { epoch, owner, takenAt, settled: { number, batchId: settled_batch }, open: open || null };
}

/** Unsent rows (pending or parked) that a person, or Kafka, says were delivered: any of these. */
export interface DeliveredRows {
  seqs: string[];
  createdBefore: Date | null;
  ids: string[];
}

export const NO_ROWS: DeliveredRows = { seqs: [], createdBefore: null, ids: [] };

/**
 * Gives a shard a new beginning, in one transaction: `delivered` rows are marked published, `settled` counts as settled,
 * and an empty batch is open behind it, under a new id. Settled like any other, by this command or by the next relay, it
 * is where both sides agree anew; and whatever knows only what was before (a copy of the database, a relay on it) does
 * not fit to Kafka any more. Returns that batch and the number of rows marked.
 * @throws OrchestratorError relay_fenced
 */
export async function beginAnew(
  client: pg.ClientBase,
  { shard, shards, epoch }: { shard: number; shards: number; epoch: string },
  settled: Journal['settled'],
  delivered: DeliveredRows,
): Promise<{ number: number; batchId: string; marked: number }> {
  return inTransaction(client, async () => {
    // The statements of a relay are short, these may mark a day's rows.
    await client.query('SET LOCAL statement_timeout = 0');
    const marked = await markDelivered(client, { shard, shards }, delivered);
    const batchId = randomUUID();
    const { rowCount } = await client.query(
      `UPDATE orchestrator.outbox_journal
       SET settled_number = $3, settled_batch = $4, open_batch = $5, open_seqs = '{}', opened_at = now(),
           delivered_total = delivered_total + $6
       WHERE shard = $1 AND epoch = $2`,
      [shard, epoch, settled.number, settled.batchId, batchId, marked],
    );
    if (rowCount !== 1)
      throw new OrchestratorError('relay_fenced', `a relay has taken over shard ${shard} meanwhile`);
    return { number: settled.number + 1, batchId, marked };
  });
}

/** What the relay has not delivered yet; one status at a time, because each has an index of its own. */
const UNSENT = ['pending', 'failed'] as const;

interface ShardOf {
  shard: number;
  shards: number;
}

async function markDelivered(
  client: Queryable,
  { shard, shards }: ShardOf,
  { seqs, createdBefore, ids }: DeliveredRows,
): Promise<number> {
  let marked = 0;
  for (const status of UNSENT) {
    const { rowCount } = await client.query(
      `UPDATE public.core_outboxmessage
       SET status = 'published', published_at = now(), last_error = NULL, next_retry_at = NULL
       WHERE status = '${status}' AND ${shardExpression(shards)} = $1
         AND (relay_seq = ANY($2::bigint[]) OR created_at < $3 OR id = ANY($4::uuid[]))`,
      [shard, seqs, createdBefore, ids],
    );
    marked += rowCount ?? 0;
  }
  return marked;
}

/** The topics of a shard's unsent rows, each with the time (milliseconds) at which the first of its rows was created. */
export async function unsentTopics(
  client: Queryable,
  { shard, shards }: ShardOf,
): Promise<Map<string, number>> {
  const { rows } = await client.query<{ topic: string; since: Date }>(
    UNSENT.map(
      (status) => `SELECT topic, min(created_at) AS since FROM public.core_outboxmessage
                   WHERE status = '${status}' AND ${shardExpression(shards)} = $1 GROUP BY topic`,
    ).join(' UNION ALL '),
    [shard],
  );
  const first = new Map<string, number>();
  for (const { topic, since } of rows)
    first.set(topic, Math.min(since.getTime(), first.get(topic) ?? Number.POSITIVE_INFINITY));
  return first;
}

/** Those of `ids` that are unsent rows of the shard. */
export async function unsentAmong(
  client: Queryable,
  { shard, shards }: ShardOf,
  ids: string[],
): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM public.core_outboxmessage
     WHERE id = ANY($2::uuid[]) AND status IN ('pending', 'failed') AND ${shardExpression(shards)} = $1`,
    [shard, ids],
  );
  return rows.map(({ id }) => id);
}

/** How many rows of a shard are unsent: those that its relay can send, and those that wait (parked, or behind a parked one). */
export interface Unsent {
  due: number;
  waiting: number;
}

/** Counting stops here: beyond it only the direction matters. */
const COUNT_LIMIT = 100_000;

/** Counts the unsent rows up to `lastSeq`, at most 100,000 of each kind. */
export async function countUnsent(
  client: Queryable,
  { shard, shards }: ShardOf,
  lastSeq: string,
): Promise<Unsent> {
  const pending = `status = 'pending' AND ${shardExpression(shards)} = $1 AND relay_seq <= $2`;
  const free = `(partition_key IS NULL OR NOT EXISTS (
    SELECT FROM public.core_outboxmessage AS parked
    WHERE parked.status = 'failed' AND parked.topic = message.topic
      AND parked.partition_key = message.partition_key AND parked.relay_seq < message.relay_seq))`;
  const count = (condition: string) =>
    `(SELECT count(*)::int FROM (
        SELECT FROM public.core_outboxmessage AS message WHERE ${condition} LIMIT ${COUNT_LIMIT}) AS found)`;
  const { rows } = await client.query<Unsent>(
    `SELECT ${count(`${pending} AND ${free}`)} AS due,
       ${count(`${pending} AND NOT ${free}`)}
       + ${count(`status = 'failed' AND ${shardExpression(shards)} = $1 AND relay_seq <= $2`)} AS waiting`,
    [shard, lastSeq],
  );
  return rows[0]!;
}

/** The place in the order of insertion up to which rows exist now. */
export async function lastSeq(client: Queryable): Promise<string> {
  const { rows } = await client.query<{ seq: string }>(
    `SELECT coalesce(pg_sequence_last_value(
       pg_get_serial_sequence('public.core_outboxmessage', 'relay_seq')::regclass), 0) AS seq`,
  );
  return rows[0]!.seq;
}
