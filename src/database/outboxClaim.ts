import { MAX_BATCH_BYTES, MAX_RECORD_BYTES } from '../domain/outbox.ts';
import { shardExpression } from './deployment.ts';

/**
 * Whether a relay_seq is among $2, which is in ascending order. The range says nothing new, but without it the planner
 * may read a shard's whole backlog and look each row up in the list.
 */
export const AMONG_SEQS = `BETWEEN ($2::bigint[])[1] AND ($2::bigint[])[cardinality($2::bigint[])] AND relay_seq = ANY($2::bigint[])`;

/** An OutboxRow. */
export const ROW_COLUMNS = `
  relay_seq AS seq, id, idempotency_key AS "idempotencyKey", topic, partition_key AS key,
  headers::text AS headers, octet_length(payload::text) AS "valueBytes",
  CASE WHEN octet_length(payload::text) <= ${MAX_RECORD_BYTES} THEN payload::text END AS value`;

/** A row's share of a record batch: what it carries, the id and the framing of record and headers (both at most 150). */
const RECORD_BYTES = `(octet_length(payload::text) + octet_length(headers::text)
  + octet_length(coalesce(partition_key, '')) + octet_length(idempotency_key) + 150)`;

/**
 * The next rows of a shard ($1), in order of insertion: at most $2, and no more than fit into one batch by bytes, but
 * always the first. Both running sums are taken while the index is read: the first, of stored (compressed) sizes, keeps
 * large payloads that have no room in the batch from being read at all; the second is exact.
 * Keys that a parked message holds back are left out; the list of those is empty on a good day.
 */
export const claimQuery = (shards: number): string => `
  SELECT seq, id, "idempotencyKey", topic, key, headers, "valueBytes", value
  FROM (
    SELECT ${ROW_COLUMNS}, ${RECORD_BYTES} AS bytes,
      sum(${RECORD_BYTES}) OVER (ORDER BY relay_seq ROWS UNBOUNDED PRECEDING) AS running
    FROM (
      SELECT *,
        sum(pg_column_size(payload)) OVER (ORDER BY relay_seq ROWS UNBOUNDED PRECEDING) AS stored
      FROM public.core_outboxmessage
      WHERE status = 'pending' AND ${shardExpression(shards)} = $1
        AND (partition_key IS NULL OR (topic, partition_key) NOT IN (
          SELECT topic, partition_key FROM public.core_outboxmessage
          WHERE status = 'failed' AND partition_key IS NOT NULL
        ))
      ORDER BY relay_seq
      LIMIT $2
    ) AS due
    WHERE stored - pg_column_size(payload) <= ${MAX_BATCH_BYTES}
  ) AS claim
  WHERE running <= ${MAX_BATCH_BYTES} OR running = bytes
  ORDER BY seq`;
