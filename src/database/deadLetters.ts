import { type DeadLetterCode, MAX_BATCH_BYTES, REPLAY_HEADER } from '../domain/outbox.ts';
import { deadLetterTopic } from '../domain/topics.ts';
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
      INSERT INTO public.core_outboxmessage
        (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
      SELECT gen_random_uuid(), 'dead-letter:' || letter_id, dlq_topic, partition_key, ${ENVELOPE},
        jsonb_build_object('dead_letter_id', letter_id, 'original_topic', topic, 'error_type', code), now(), 0, 5, 'pending'
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
