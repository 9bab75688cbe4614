import type { OutboxTotals } from './outboxTakeover.ts';
import { isLegalTopic } from './topics.ts';

/** One pending row as the relay claims it. `seq` is the order of insertion; it is 64 bits wide, so it stays a string. */
export interface OutboxRow {
  seq: string;
  id: string;
  idempotencyKey: string;
  topic: string;
  /** Null: the message has no key, no order to keep, and any partition will do. */
  key: string | null;
  /** The payload's JSON, passed through as text so that no number loses digits. Null: too large to be fetched. */
  value: string | null;
  valueBytes: number;
  /** The headers column's JSON. */
  headers: string;
}

/** What goes to Kafka for one row. */
export interface OutboxRecord {
  seq: string;
  id: string;
  topic: string;
  key: string | null;
  value: string;
  headers: Record<string, string>;
}

/** Why a row cannot become a record; `code` is stable and documented in docs/errors.md. */
export interface Rejection {
  code: RejectionCode;
  message: string;
}

/** As it stands in `last_error`. */
export const describeRejection = ({ code, message }: Rejection): string => `${code}: ${message}`;

export const rejectionCodes = [
  'record_too_large',
  'invalid_topic',
  'invalid_headers',
  'topic_forbidden',
  'invalid_record',
] as const;
export type RejectionCode = (typeof rejectionCodes)[number];

export interface RejectedRow {
  row: OutboxRow;
  rejection: Rejection;
}

/**
 * Bounds of one batch. Kafka takes a record batch of 1,048,588 bytes (`max.message.bytes`), the client writes one
 * record batch a partition and never splits it, and all of a batch may fall into one partition: so the sum stays
 * below that with room for record framing. A single larger record travels alone, up to MAX_RECORD_BYTES.
 */
export const MAX_BATCH_BYTES = 900_000;
export const MAX_BATCH_ROWS = 2_000;
export const MAX_RECORD_BYTES = 1_000_000;

/** Headers that the relay adds to those of the row. */
const IDEMPOTENCY_HEADER = 'idempotency_key';
const MESSAGE_ID_HEADER = 'message_id';

const utf8Bytes = (text: string): number => new TextEncoder().encode(text).length;

/** The record for a row, or the reason why there can be none. */
export function toRecord(row: OutboxRow): OutboxRecord | Rejection {
  if (!isLegalTopic(row.topic)) {
    return {
      code: 'invalid_topic',
      message: `topic ${JSON.stringify(row.topic)} is no legal Kafka topic: expected 1 to 249 of a-z A-Z 0-9 . _ -`,
    };
  }
  const headers = parseHeaders(row.headers);
  if (headers === undefined) {
    return {
      code: 'invalid_headers',
      message: 'headers are not a flat JSON object of strings, which is all that Kafka headers can carry',
    };
  }
  const bytes = row.valueBytes + utf8Bytes(row.key ?? '') + utf8Bytes(row.headers);
  if (row.value === null || bytes > MAX_RECORD_BYTES) {
    return {
      code: 'record_too_large',
      message: `payload, key and headers are ${bytes} bytes together: at most ${MAX_RECORD_BYTES} fit into a record`,
    };
  }
  const { seq, id, topic, key, value } = row;
  return {
    seq,
    id,
    topic,
    key,
    value,
    headers: { ...headers, [IDEMPOTENCY_HEADER]: row.idempotencyKey, [MESSAGE_ID_HEADER]: id },
  };
}

function parseHeaders(text: string): Record<string, string> | undefined {
  const headers: unknown = JSON.parse(text);
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) return undefined;
  const flat = Object.values(headers).every((value) => typeof value === 'string');
  return flat ? (headers as Record<string, string>) : undefined;
}

export interface ComposedBatch {
  records: OutboxRecord[];
  rejected: RejectedRow[];
}

/**
 * Splits claimed rows (in order) into what can be sent and what must be parked. A row behind a rejected one of the
 * same (topic, key) is in neither: it stays pending and is held back until its predecessor is settled, so that the
 * order of its key holds.
 */
export function composeBatch(rows: OutboxRow[]): ComposedBatch {
  const batch: ComposedBatch = { records: [], rejected: [] };
  const held = new Set<string>();
  for (const row of rows) {
    const orderedBy = row.key === null ? undefined : JSON.stringify([row.topic, row.key]);
    if (orderedBy !== undefined && held.has(orderedBy)) continue;
    const made = toRecord(row);
    if ('code' in made) {
      batch.rejected.push({ row, rejection: made });
      if (orderedBy !== undefined) held.add(orderedBy);
    } else {
      batch.records.push(made);
    }
  }
  return batch;
}

/** `outboxRelay`'s answer to the query `status`. */
export interface OutboxRelayStatus {
  state: OutboxRelayState;
  shard: number;
  /** Rows that this shard has marked published since the deployment began, as the journal in Postgres counts them. */
  delivered_total: number;
  batches_total: number;
  /** Rows of this shard that Kafka cannot take as they are (status `failed`). */
  parked: number;
  last_error: string | null;
  /** When `state` became what it is; ISO 8601. */
  since: string;
}

/**
 *            rows pending              drained
 *   idle ───────────────▶ delivering ─────────▶ idle
 *     │                       │
 *     └──── Kafka or Postgres away ────▶ waiting ───▶ back: idle or delivering
 *
 *   any ── signal pause, or a shard that stopped itself ──▶ paused ── signal resume ──▶ idle
 */
export type OutboxRelayState = 'delivering' | 'idle' | 'paused' | 'waiting';

/** What the relay's activity tells its workflow as it goes. */
export interface OutboxRelayReport {
  state: Exclude<OutboxRelayState, 'paused'>;
  /** Null where the journal could not be read. */
  totals: OutboxTotals | null;
  parked: number;
  lastError: string | null;
}

/** The signal that carries an OutboxRelayReport; for the activity, not for people. */
export const RELAY_REPORT_SIGNAL = 'report';

const RELAY_WORKFLOW_ID = /^outbox-relay-(0|[1-9]\d{0,2})$/;

export const relayWorkflowId = (shard: number): string => `outbox-relay-${shard}`;

/** The shard that a relay workflow's id names, or undefined where the id has another form. */
export function shardOfWorkflowId(workflowId: string): number | undefined {
  const match = RELAY_WORKFLOW_ID.exec(workflowId);
  return match ? Number(match[1]) : undefined;
}

/** Relay activities run for a minute each; a queue of their own keeps them from starving the short ones. */
export const relayTaskQueue = (taskQueue: string): string => `${taskQueue}-relay`;
