import { createHash } from 'node:crypto';
import {
  COLUMN_LENGTH,
  type ConsumedRecord,
  idempotencyHeader,
  isSendable,
  isText,
  NOT_UNDERSTOOD,
  parseObject,
  storableText,
} from '../domain/consumedRecord.ts';
import { MEMORY_TOPIC } from '../domain/memories.ts';
import { type DeadLetterCode, MAX_BATCH_BYTES, REPLAY_HEADER } from '../domain/outbox.ts';
import { deadLetterTopic } from '../domain/topics.ts';
import { UPLOAD_TOPIC } from '../domain/uploads.ts';
import type { Queryable } from './postgres.ts';

/** An outbox row that became `dead` in this transaction. */
export interface DeadMessage {
  id: string;
  topic: string;
  code: DeadLetterCode;
  reason: string;
}

/**
 * What a dead letter's record on `<topic>.dlq` says. Payload and headers are left out where they might not fit into a
 * record; `reference` then says where they are.
 */
const ENVELOPE = `jsonb_build_object(
  'dead_letter_id', letter_id, 'message_id', dead.id, 'idempotency_key', original_key,
  'original_topic', topic, 'original_key', partition_key,
  'headers', CASE WHEN fits THEN headers END, 'payload', CASE WHEN fits THEN payload END,
  'reference', CASE WHEN NOT fits THEN
    jsonb_build_object('table', 'core_deadlettermessage', 'id', letter_id, 'payload_bytes', octet_length(payload::text)) END,
  'error_type', code, 'error_message', reason, 'attempts', attempts, 'created_at', created_at, 'failed_at', now())`;

/** Tells `<topic>.dlq` of the rows of `letters`; what they say is in `dead`. */
const TELL = `
  INSERT INTO public.core_outboxmessage
    (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
  SELECT gen_random_uuid(), 'dead-letter:' || letter_id, dlq_topic, partition_key, ${ENVELOPE},
    jsonb_build_object('dead_letter_id', letter_id, 'original_topic', topic, 'error_type', code), now(), 0, 5, 'pending'`;

/** What consumers know the message by: a replay goes under a key of its own, and has the original one in its headers. */
const ORIGINAL_KEY = `left(coalesce(
  CASE WHEN m.headers ? '${REPLAY_HEADER}' THEN m.headers->>'idempotency_key' END, m.idempotency_key), 255)`;

/**
 * Writes the letters of dead messages: a row in core_deadlettermessage, and a message to `<topic>.dlq` in the outbox. A
 * dead letter of a `.dlq` topic ends in the table. A message that was itself the replay of a letter makes no second
 * one: the first, still unresolved, takes on its error and its attempts.
 *
 * Runs in the caller's transaction, the one that made the messages dead.
 */
export async function writeDeadLetters(client: Queryable, dead: DeadMessage[]): Promise<void> {
  if (dead.length === 0) return;
  await client.query({
    name: 'dead-letters',
    text: `
      WITH dead AS (
        SELECT m.*, code, reason, dlq_topic, ${ORIGINAL_KEY} AS original_key,
          code <> 'record_too_large' AND octet_length(m.payload::text) + octet_length(m.headers::text) <= ${MAX_BATCH_BYTES} AS fits
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS d (id, code, reason, dlq_topic)
        JOIN public.core_outboxmessage AS m USING (id)
      ), replayed AS (
        UPDATE public.core_deadlettermessage AS letter
        SET error_message = reason, error_type = code, attempts = letter.attempts + dead.attempts
        FROM dead WHERE letter.replay_id = dead.id AND NOT letter.resolved
        RETURNING letter.replay_id
      ), letters AS (
        INSERT INTO public.core_deadlettermessage
          (id, original_outbox_id, original_topic, idempotency_key, payload, headers, error_message, error_type, attempts,
           created_at, original_created_at, resolved, partition_key, original_seq)
        SELECT gen_random_uuid(), id, topic, original_key, payload, headers, reason, code, attempts,
          now(), created_at, false, partition_key, relay_seq
        FROM dead WHERE id NOT IN (SELECT replay_id FROM replayed)
        RETURNING id AS letter_id, original_outbox_id
      )
      ${TELL}
      FROM dead JOIN letters ON original_outbox_id = dead.id
      WHERE dlq_topic IS NOT NULL
      ORDER BY relay_seq`,
    values: [
      dead.map(({ id }) => id),
      dead.map(({ code }) => code),
      dead.map(({ reason }) => reason),
      dead.map(({ topic }) => deadLetterTopic(topic) ?? null),
    ],
  });
}

/** A queued memory that became dead in this transaction. */
export interface DeadMemory {
  id: string;
  reason: string;
}

/** Stands in the letter's `error_type`. */
export const MEMORY_REJECTED = 'memory_rejected';

/**
 * Writes the letters of memories that SomaBrain will not have: each is a letter of the topic somabrain.memory.remember,
 * with the payload that this topic carries, so that a replay queues the memory again by way of the topic. With it goes a
 * message to the topic's `.dlq`. Runs in the caller's transaction, the one that made the memories dead.
 */
export async function writeMemoryLetters(client: Queryable, dead: DeadMemory[]): Promise<void> {
  if (dead.length === 0) return;
  await client.query({
    name: 'dead-memories',
    text: `
      WITH dead AS (
        SELECT memory.id, idempotency_key AS original_key, tenant_id AS partition_key, '{}'::jsonb AS headers, reason,
          $3::text AS topic, $4::text AS dlq_topic, $5::text AS code, created_at, sync_seq, sync_attempts AS attempts,
          jsonb_build_object('memory_id', id, 'tenant_id', tenant_id, 'namespace', namespace, 'payload', payload) AS payload,
          octet_length(payload::text) <= ${MAX_BATCH_BYTES} AS fits
        FROM unnest($1::uuid[], $2::text[]) AS d (id, reason)
        JOIN public.core_pendingmemory AS memory USING (id)
      ), letters AS (
        INSERT INTO public.core_deadlettermessage
          (id, original_topic, idempotency_key, payload, headers, error_message, error_type, attempts,
           created_at, original_created_at, resolved, partition_key, original_seq)
        SELECT gen_random_uuid(), topic, original_key, payload, headers, reason, code, attempts,
          now(), created_at, false, partition_key, sync_seq
        FROM dead
        RETURNING id AS letter_id, idempotency_key AS original_key
      )
      ${TELL}
      FROM dead JOIN letters USING (original_key)
      ORDER BY sync_seq`,
    values: [
      dead.map(({ id }) => id),
      dead.map(({ reason }) => reason),
      MEMORY_TOPIC,
      deadLetterTopic(MEMORY_TOPIC),
      MEMORY_REJECTED,
    ],
  });
}

/**
 * Writes the letter of an upload that was given up, with the payload of the topic upload.retry. Bytes that a message
 * brought stay in the upload's row, and data_ref says so (ownBytes): a replay has them stored from there. Runs in the
 * caller's transaction, the one that gave it up.
 */
export async function writeUploadLetter(
  client: Queryable,
  idempotencyKey: string,
  { code, reason }: { code: string; reason: string },
): Promise<void> {
  await client.query({
    name: 'dead-upload',
    text: `
      WITH dead AS (
        SELECT NULL::uuid AS id, idempotency_key AS original_key, '{}'::jsonb AS headers, created_at,
          octet_length(metadata::text) <= ${MAX_BATCH_BYTES} AS fits,
          CASE WHEN length(filename) <= ${COLUMN_LENGTH} THEN filename END AS partition_key, greatest(attempts, 1) AS attempts,
          $2::text AS code, $3::text AS reason, $4::text AS topic, $5::text AS dlq_topic,
          jsonb_build_object('filename', filename, 'content_type', content_type, 'metadata', metadata, 'size', size,
            'data_b64', NULL, 'data_ref', coalesce(data_ref, 'upload:' || idempotency_key)) AS payload
        FROM orchestrator.upload WHERE idempotency_key = $1
      ), letters AS (
        INSERT INTO public.core_deadlettermessage
          (id, original_topic, idempotency_key, payload, headers, error_message, error_type, attempts,
           created_at, original_created_at, resolved, partition_key)
        SELECT gen_random_uuid(), topic, original_key, payload, headers, reason, code, attempts,
          now(), created_at, false, partition_key
        FROM dead
        RETURNING id AS letter_id, idempotency_key AS original_key
      )
      ${TELL}
      FROM dead JOIN letters USING (original_key)`,
    values: [idempotencyKey, code, reason, UPLOAD_TOPIC, deadLetterTopic(UPLOAD_TOPIC)],
  });
}

/** A record that no message could be made of. */
export interface ConsumedLetter {
  record: ConsumedRecord;
  fault: string;
}

/**
 * Writes the letters of consumed records in the given order, each with its raw bytes, and tells `<topic>.dlq`. The same
 * record, consumed twice, has one letter. Returns how many are new. Runs in the caller's transaction.
 */
export async function writeConsumedLetters(client: Queryable, letters: ConsumedLetter[]): Promise<number> {
  if (letters.length === 0) return 0;
  const { rows } = await client.query<{ letters: number }>({
    name: 'consumed-letters',
    text: `
      WITH dead AS (
        SELECT NULL::uuid AS id, '${NOT_UNDERSTOOD}' AS code, 1 AS attempts, record.*,
          octet_length(payload::text) + octet_length(headers::text) <= ${MAX_BATCH_BYTES} AS fits
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::jsonb[], $8::text[], $9::timestamptz[])
          WITH ORDINALITY AS record
            (letter_id, topic, dlq_topic, original_key, partition_key, payload, headers, reason, created_at, place)
      ), letters AS (
        -- A moment apart: letters without a place in the outbox are replayed in the order of their making.
        INSERT INTO public.core_deadlettermessage
          (id, original_topic, idempotency_key, payload, headers, error_message, error_type, attempts,
           created_at, original_created_at, resolved, partition_key)
        SELECT letter_id, topic, original_key, payload, headers, reason, code, attempts,
          now() + place * interval '1 microsecond', created_at, false, partition_key
        FROM dead ORDER BY place
        ON CONFLICT (id) DO NOTHING
        RETURNING id AS letter_id
      ), told AS (
        ${TELL}
        FROM dead JOIN letters USING (letter_id) WHERE dlq_topic IS NOT NULL ORDER BY place
        ON CONFLICT (idempotency_key) DO NOTHING
      )
      SELECT count(*)::int AS letters FROM letters`,
    values: columnsOf(letters),
  });
  return rows[0]!.letters;
}

/** Later moments than these are no moments but other units, or lies. */
const YEAR_10000 = Date.UTC(10_000, 0);

function columnsOf(letters: ConsumedLetter[]): unknown[][] {
  const records = letters.map(({ record }) => record);
  return [
    records.map(letterId),
    records.map(({ topic }) => topic),
    records.map(({ topic }) => deadLetterTopic(topic) ?? null),
    records.map((record) => idempotencyHeader(record) ?? placeKey(record)),
    records.map(({ key }) => columnText(key)),
    records.map((record) => JSON.stringify(letterPayload(record))),
    records.map(({ headers }) => JSON.stringify(textHeaders(headers))),
    letters.map(({ fault }) => fault),
    records.map(({ timestamp }) => (timestamp >= 0 && timestamp < YEAR_10000 ? new Date(timestamp) : null)),
  ];
}

function placeKey({ topic, partition, offset }: ConsumedRecord): string {
  return `consumed:${topic}:${partition}:${offset}`.slice(-COLUMN_LENGTH);
}

/** From the place and from what stands there: a topic that was made anew begins at offset 0 again. */
function letterId(record: ConsumedRecord): string {
  const hash = createHash('sha256').update(`${placeKey(record)}:${record.timestamp}:`);
  return hash
    .update(record.value ?? 'tombstone')
    .digest('hex')
    .slice(0, 32);
}

/** With the `data_ref` of what could be an upload: it keeps the spool's file as long as the letter is unresolved. */
function letterPayload({ partition, offset, timestamp, key, value }: ConsumedRecord) {
  const parsed = parseObject(value);
  const ref = 'fields' in parsed ? parsed.fields.data_ref : undefined;
  return {
    ...(typeof ref === 'string' ? { data_ref: ref } : {}),
    raw_base64: base64(value),
    sendable: isSendable(value),
    partition,
    offset,
    timestamp,
    key_base64: base64(key),
  };
}

const base64 = (bytes: Uint8Array | null): string | null => bytes && Buffer.from(bytes).toString('base64');

function columnText(bytes: Uint8Array | null): string | null {
  const text = storableText(bytes);
  return text !== undefined && isText(text, COLUMN_LENGTH) ? text : null;
}

/** Those that the outbox could send again. */
function textHeaders(headers: Record<string, Uint8Array>): Record<string, string> {
  const texts = Object.entries(headers).map(([name, value]) => [name, storableText(value)] as const);
  return Object.fromEntries(
    texts.filter(([name, text]) => text !== undefined && !name.includes('\0') && name.isWellFormed()),
  ) as Record<string, string>;
}
