import type { OutboxTotals } from './outboxTakeover.ts';
import { OutboxTopics } from './outboxTopics.ts';
import { isLegalTopic, type TopicFacts } from './topics.ts';

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

/** A row without its payload: enough to see that there can be no record for it. */
export type OutboxRowHead = Omit<OutboxRow, 'value'>;

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
  'unknown_topic',
  'topic_forbidden',
  'invalid_headers',
  'invalid_record',
] as const;
export type RejectionCode = (typeof rejectionCodes)[number];

/** As it stands in a dead letter's `error_type`: why Kafka did not get it, or that a person gave it up. */
export type DeadLetterCode = RejectionCode | 'discarded';

export interface RejectedRow {
  row: OutboxRowHead;
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
export const MESSAGE_ID_HEADER = 'message_id';
/** On a row that replays a dead letter, with that letter's id. Its own `idempotency_key` header is the original one. */
export const REPLAY_HEADER = 'replayed_dead_letter';

const encoder = new TextEncoder();
const utf8Bytes = (text: string): number => encoder.encode(text).length;

/** The record for a row, or the reason why there can be none; `facts` of its topic, as far as they are known. */
export function toRecord(row: OutboxRow, facts?: TopicFacts): OutboxRecord | Rejection {
  const read = readHead(row, facts);
  if ('code' in read) return read;
  const { seq, id, topic, key, value } = row;
  // Only what is too large is not fetched.
  return {
    seq,
    id,
    topic,
    key,
    value: value!,
    headers: { ...read.headers, ...relayHeaders(row, read.headers) },
  };
}

/** The row's own headers, or the reason why there can be no record for it. */
function readHead(row: OutboxRowHead, facts?: TopicFacts): { headers: Record<string, string> } | Rejection {
  const { topic, key } = row;
  if (!isLegalTopic(topic)) {
    return {
      code: 'invalid_topic',
      message: `topic ${JSON.stringify(topic)} is no legal Kafka topic: expected 1 to 249 of a-z A-Z 0-9 . _ -`,
    };
  }
  const headers = parseHeaders(row.headers);
  if (headers === undefined) {
    return {
      code: 'invalid_headers',
      message: 'headers are not a flat JSON object of strings, which is all that Kafka headers can carry',
    };
  }
  const bytes = recordBytes(row);
  if (bytes > MAX_RECORD_BYTES) return tooLarge(bytes, `at most ${MAX_RECORD_BYTES} fit into a record`);
  return refusalBy(facts, { topic, key, bytes }) ?? { headers };
}

/** Why a topic of which this is known takes no such message; at least `bytes` of payload, key and headers. */
export function refusalBy(
  facts: TopicFacts | undefined,
  { topic, key, bytes }: { topic: string; key: string | null; bytes: number },
): Rejection | undefined {
  const limit = facts?.maxMessageBytes ?? bytes;
  if (bytes > limit) return tooLarge(bytes, `topic ${topic} takes ${limit} (max.message.bytes)`);
  const isKeyMissing = facts?.compacted && key === null;
  if (!isKeyMissing) return undefined;
  return {
    code: 'invalid_record',
    message: `topic ${topic} is compacted and takes no message without a key`,
  };
}

const tooLarge = (bytes: number, limit: string): Rejection => ({
  code: 'record_too_large',
  message: `payload, key and headers are ${bytes} bytes together: ${limit}`,
});

function relayHeaders({ id, idempotencyKey }: OutboxRowHead, headers: Record<string, string>) {
  const original = REPLAY_HEADER in headers ? headers[IDEMPOTENCY_HEADER] : undefined;
  return { [IDEMPOTENCY_HEADER]: original ?? idempotencyKey, [MESSAGE_ID_HEADER]: id };
}

/** What remains of a topic's room for a record batch; no limit where the bounds of any batch are within the topic's. */
function roomLeft(room: number | undefined, row: OutboxRowHead): number {
  if (room === undefined || room > MAX_RECORD_BYTES) return Number.POSITIVE_INFINITY;
  return room - recordBytes(row) - utf8Bytes(row.idempotencyKey) - FRAMING_BYTES;
}

/** Two headers of the relay's own and the framing of a record, at most. */
const FRAMING_BYTES = 150;

/** Less than the record has in Kafka, which adds framing: whatever is above a limit by this count is above it. */
const recordBytes = ({ valueBytes, key, headers }: OutboxRowHead): number =>
  valueBytes + utf8Bytes(key ?? '') + utf8Bytes(headers);

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
 * Splits claimed rows (in order) into what can be sent and what must be parked. The others stay pending: rows behind a
 * rejected one of the same (topic, key), rows of a suspected topic (its first one is sent alone, to find out), and rows
 * that would make a record batch larger than their topic takes. A key or topic that is passed over once is passed over
 * to the end, so that the order of each key holds. `now` in milliseconds.
 */
export function composeBatch(rows: OutboxRow[], topics = new OutboxTopics(), now = 0): ComposedBatch {
  const batch: ComposedBatch = { records: [], rejected: [] };
  const heldKeys = new Set<string>();
  const heldTopics = new Set<string>();
  const room = new Map<string, number>();
  for (const row of rows) {
    const { topic } = row;
    const orderedBy = row.key === null ? undefined : JSON.stringify([topic, row.key]);
    if (heldTopics.has(topic) || (orderedBy !== undefined && heldKeys.has(orderedBy))) continue;
    const facts = topics.factsOf(topic);
    const verdict = topics.verdictOn(topic, now);
    const made = verdict ?? toRecord(row, topics.freshFactsOf(topic, now));
    if ('code' in made) {
      batch.rejected.push({ row, rejection: made });
      if (orderedBy !== undefined) heldKeys.add(orderedBy);
      continue;
    }
    const left = roomLeft(room.get(topic) ?? facts?.maxMessageBytes, row);
    const alone = topics.isSuspect(topic);
    // The first record of a topic always goes: whether it fits is Kafka's to say.
    if ((alone && batch.records.length > 0) || (room.has(topic) && left < 0)) {
      heldTopics.add(topic);
      continue;
    }
    room.set(topic, left);
    batch.records.push(made);
    if (alone) break;
  }
  return batch;
}

/**
 * What becomes of parked rows whose next attempt is due: they are refused again where the answer is known without
 * Kafka, and released otherwise. Of a suspected topic one row is released, to find out; the others stay due meanwhile.
 */
export function judgeRetries(
  rows: OutboxRowHead[],
  topics: OutboxTopics,
  now: number,
): { refused: RejectedRow[]; released: OutboxRowHead[] } {
  const refused: RejectedRow[] = [];
  const released: OutboxRowHead[] = [];
  const tried = new Set<string>();
  for (const row of rows) {
    const { topic } = row;
    const read = topics.verdictOn(topic, now) ?? readHead(row, topics.freshFactsOf(topic, now));
    if ('code' in read) refused.push({ row, rejection: read });
    else if (!(topics.isSuspect(topic) && tried.has(topic))) released.push(row);
    tried.add(topic);
  }
  return { refused, released };
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
