import { MAX_BATCH_BYTES, MAX_RECORD_BYTES } from '../domain/outbox.ts';
import { shardExpression } from './deployment.ts';

/**
 * Whether a relay_seq is among $2, which is in ascending order. The range says nothing new, but without it the planner
 * may read a shard's whole backlog and look each row up in the list.
 */
export const AMONG_SEQS = `BETWEEN ($2::bigint[])[1] AND ($2::bigint[])[cardinality($2::bigint[])] AND relay_seq = ANY($2::bigint[])`;

/**
 * For the connection that claims and marks: it is to use the partial indexes, whatever the planner believes of a table
 * that fills and drains within seconds. One sequential scan over years of published rows would stall the shard. And with
 * a price for pages, an index that has drained looks dear for its empty ones: rows were then marked by the platform's
 * index of all that is pending, seven times slower with a backlog of 8,000.
 */
export const CLAIMING_SESSION = `
  SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
  SET seq_page_cost = 0; SET random_page_cost = 0`;

/** An OutboxRowHead. */
export const HEAD_COLUMNS = `
  relay_seq AS seq, id, idempotency_key AS "idempotencyKey", topic, partition_key AS key,
  headers::text AS headers, octet_length(payload::text) AS "valueBytes"`;

/** An OutboxRow. */
export const ROW_COLUMNS = `${HEAD_COLUMNS},
  CASE WHEN octet_length(payload::text) <= ${MAX_RECORD_BYTES} THEN payload::text END AS value`;

/** The least bigint: below every relay_seq, also below those that somebody wrote by hand. */
export const FROM_THE_START = '-9223372036854775808';

/**
 * What the parked rows of shard $1 with numbers up to `floor` are known by, for one snapshot to be compared with
 * another: a sum of hashes, '0' for none. It reads all that is parked, 5,000 rows in about a millisecond.
 */
export const parkedUpTo = (shards: number, floor: string): string => `(
  SELECT coalesce(sum(hashint8extended(relay_seq, 0)), 0) FROM public.core_outboxmessage
  WHERE status = 'failed' AND ${shardExpression(shards)} = $1 AND relay_seq <= ${floor})`;

/** With more parked rows, in all shards, there is neither a floor nor a hash of them: each claim would look them all over. */
export const MAX_PARKED = 5_000;

const PARKED = `FROM public.core_outboxmessage WHERE status = 'failed'`;

/**
 * How a claim goes about it; $3 and $4 are an OutboxFloor, which counts only while the rows that are parked below it are
 * still the same. `start`: what is up to there is left out. `hashed`: parked rows up to there are known by a hash, where
 * a claim begins at the start and may have to step over thousands that they hold back. Letters of a flood come behind
 * it, and where their topic is refused as well, they are parked there: they would spoil the bound.
 */
export const scan = (shards: number): string => `scan AS MATERIALIZED (
  SELECT start, CASE WHEN start = '${FROM_THE_START}' THEN (
    SELECT CASE WHEN count(*) <= ${MAX_PARKED} THEN max(relay_seq) FILTER (WHERE topic NOT LIKE '%.dlq') END
    FROM (SELECT topic, relay_seq ${PARKED} LIMIT ${MAX_PARKED + 1}) AS few) END AS hashed
  FROM (
    SELECT CASE WHEN $3::bigint = '${FROM_THE_START}' THEN $3
      WHEN $4::numeric = ${parkedUpTo(shards, '$3')} THEN $3 ELSE '${FROM_THE_START}' END AS start OFFSET 0
  ) AS begin)`;

/**
 * The rows of shard $1 that may be sent, in terms of `message` and `scan`. Left out are those that a parked row with a
 * lower number holds back (of the same topic and key). The first line of that spares the look-ups while nothing is
 * parked, the hash knows most of those that are held back (0.3 µs a row), and the rest are index look-ups (2 µs) for the
 * rows that are read: their cost does not grow with what is parked.
 */
export const claimable = (shards: number): string => `
  status = 'pending' AND ${shardExpression(shards)} = $1 AND relay_seq > (SELECT start FROM scan)
  AND (NOT (SELECT EXISTS (SELECT ${PARKED}))
    OR partition_key IS NULL
    OR NOT (
      (topic, partition_key) IN (
        SELECT topic, partition_key ${PARKED}
          AND relay_seq <= (SELECT hashed FROM scan) AND partition_key IS NOT NULL)
      AND relay_seq > (SELECT hashed FROM scan)
      OR EXISTS (
        SELECT FROM public.core_outboxmessage AS parked
        WHERE parked.status = 'failed' AND parked.topic = message.topic
          AND parked.partition_key = message.partition_key AND parked.relay_seq < message.relay_seq)))`;

/** A row's share of a record batch: what it carries, the id and the framing of record and headers (both at most 150). */
const RECORD_BYTES = `octet_length(value) + octet_length(headers) + octet_length(coalesce(key, ''))
  + octet_length("idempotencyKey") + 150`;

/**
 * The next rows of a shard ($1), in order of insertion: at most $2, and no more than fit into one batch by bytes, but
 * always the first. Both running sums are taken while the index is read: the first, of stored (compressed) sizes, keeps
 * large payloads that have no room in the batch from being read at all; the second is exact.
 *
 * OFFSET 0 keeps the planner from putting payload::text in place of each `value`: made once and not five times a row,
 * it halves the time of a claim.
 */
export const claimQuery = (shards: number): string => `
  WITH ${scan(shards)}
  SELECT seq, id, "idempotencyKey", topic, key, headers, octet_length(value) AS "valueBytes",
    CASE WHEN octet_length(value) <= ${MAX_RECORD_BYTES} THEN value END AS value
  FROM (
    SELECT *, ${RECORD_BYTES} AS bytes, sum(${RECORD_BYTES}) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS running
    FROM (
      SELECT relay_seq AS seq, id, idempotency_key AS "idempotencyKey", topic, partition_key AS key,
        headers::text AS headers, payload::text AS value
      FROM (
        SELECT *, sum(pg_column_size(payload)) OVER (ORDER BY relay_seq ROWS UNBOUNDED PRECEDING) AS stored
        FROM public.core_outboxmessage AS message
        WHERE ${claimable(shards)}
        ORDER BY relay_seq
        LIMIT $2
      ) AS due
      WHERE stored - pg_column_size(payload) <= ${MAX_BATCH_BYTES}
      ORDER BY seq OFFSET 0
    ) AS row
  ) AS claim
  WHERE running <= ${MAX_BATCH_BYTES} OR running = bytes
  ORDER BY seq`;
