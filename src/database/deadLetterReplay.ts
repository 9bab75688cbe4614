import type pg from 'pg';
import type { LetterPreview, LetterSelection, PutBack, Replay, ReplayCursor } from '../domain/deadLetters.ts';
import { REPLAY_HEADER } from '../domain/outbox.ts';
import { inTransaction, type Queryable } from './postgres.ts';

/** Unresolved letters of a selection; its parameters are $1 to $4. */
const SELECTED = `NOT letter.resolved
  AND ($1::text IS NULL OR letter.original_topic = $1)
  AND ($2::uuid[] IS NULL OR letter.id = ANY($2))
  AND ($3::timestamptz IS NULL OR letter.created_at >= $3)
  AND ($4::timestamptz IS NULL OR letter.created_at < $4)`;

const parameters = ({ topic, ids, from, to }: LetterSelection) => [
  topic ?? null,
  ids ?? null,
  from ?? null,
  to ?? null,
];

/** Insertion order of the original messages. Letters that others wrote have none: they come first, by age. */
const ORDER = `coalesce(letter.original_seq, 0), letter.created_at, letter.id`;

export async function previewLetters(
  client: Queryable,
  selection: LetterSelection,
  limit: number | undefined,
): Promise<LetterPreview> {
  const { rows } = await client.query<{
    topic: string;
    error_type: string | null;
    letters: number;
    ids: string[];
  }>(
    `WITH found AS (
       SELECT id, original_topic, error_type, row_number() OVER (ORDER BY ${ORDER}) AS place
       FROM public.core_deadlettermessage AS letter WHERE ${SELECTED} ORDER BY ${ORDER} LIMIT $5
     )
     SELECT original_topic AS topic, error_type, count(*)::int AS letters,
       ARRAY(SELECT id::text FROM found ORDER BY place LIMIT 100) AS ids
     FROM found GROUP BY original_topic, error_type ORDER BY letters DESC, topic, error_type`,
    [...parameters(selection), limit ?? null],
  );
  return {
    found: rows.reduce((sum, { letters }) => sum + letters, 0),
    groups: rows.map(({ topic, error_type, letters }) => ({ topic, error_type, letters })),
    ids: rows[0]?.ids ?? [],
  };
}

export interface Resolution {
  by: string;
  notes: string | null;
}

/** Resolves letters without sending them again; returns how many. */
export async function resolveLetters(
  client: Queryable,
  selection: LetterSelection,
  { by, notes, limit }: Resolution & { limit: number },
): Promise<number> {
  const { rowCount } = await client.query(
    `UPDATE public.core_deadlettermessage SET resolved = true, resolved_at = now(), resolved_by = $6, resolution_notes = $7
     WHERE id IN (
       SELECT id FROM public.core_deadlettermessage AS letter WHERE ${SELECTED} ORDER BY ${ORDER} LIMIT $5 FOR UPDATE)`,
    [...parameters(selection), limit, by, notes ?? 'resolved without a replay'],
  );
  return rowCount ?? 0;
}

interface PutBackRow {
  letterId: string;
  /** Null where there is no message that could be sent. */
  messageId: string | null;
  seq: string;
  createdAt: string;
}

/**
 * Puts the next letters behind `after` back into the outbox, in the insertion order of the original messages, all in
 * one transaction. A letter whose message is on its way already, or delivered, by an earlier replay is not sent a
 * second time: its message is returned and can be waited for like the others. A consumed record whose bytes are no
 * JSON cannot be sent at all: its letter is counted as refused, says so in its notes, and stays unresolved.
 */
export function putBack(
  client: pg.ClientBase,
  selection: LetterSelection,
  { after, limit }: { after: ReplayCursor | null; limit: number },
): Promise<PutBack> {
  return inTransaction(client, async () => {
    // Locked by a statement of its own: the next one then sees what another replay has put back while this one waited.
    const { rows: locked } = await client.query<{ id: string }>(
      `SELECT letter.id FROM public.core_deadlettermessage AS letter
       WHERE ${SELECTED} AND ($5::bigint IS NULL OR (${ORDER}) > ($5::bigint, $6::timestamptz, $7::uuid))
       ORDER BY ${ORDER} LIMIT $8 FOR UPDATE`,
      [...parameters(selection), after?.seq ?? null, after?.createdAt ?? null, after?.id ?? null, limit],
    );
    const { rows } = await client.query<PutBackRow>(PUT_BACK, [locked.map(({ id }) => id)]);
    const last = rows.at(-1);
    return {
      replays: rows.flatMap(({ letterId, messageId }) =>
        messageId === null ? [] : [{ letterId, messageId }],
      ),
      refused: rows.filter(({ messageId }) => messageId === null).length,
      cursor: last ? { seq: last.seq, createdAt: last.createdAt, id: last.letterId } : after,
    };
  });
}

/** The letter of a consumed record keeps its bytes (see writeConsumedLetters); all others keep the payload itself. */
const IS_CONSUMED = `(letter.original_outbox_id IS NULL AND letter.payload ? 'raw_base64' AND letter.payload ? 'sendable')`;
const PAYLOAD = `CASE WHEN ${IS_CONSUMED}
  THEN convert_from(decode(letter.payload->>'raw_base64', 'base64'), 'UTF8')::jsonb ELSE letter.payload END`;
const REFUSAL = 'not replayed: the bytes of the record are no JSON that the outbox can carry';

/** Writes the messages for letters $1, as far as they have none that is on its way or delivered. */
const PUT_BACK = `
  WITH chosen AS (
    SELECT letter.*, coalesce(replay.status IN ('pending', 'failed', 'published'), false) AS under_way,
      NOT ${IS_CONSUMED} OR letter.payload->'sendable' = 'true' AS sendable
    FROM public.core_deadlettermessage AS letter
    LEFT JOIN public.core_outboxmessage AS replay ON replay.id = letter.replay_id
    WHERE letter.id = ANY($1::uuid[])
  ), started AS (
    UPDATE public.core_deadlettermessage AS letter SET replay_id = gen_random_uuid()
    FROM chosen WHERE chosen.id = letter.id AND sendable AND NOT under_way
    RETURNING letter.*
  ), refused AS (
    UPDATE public.core_deadlettermessage AS letter SET resolution_notes = '${REFUSAL}'
    FROM chosen WHERE chosen.id = letter.id AND NOT sendable
  ), messages AS (
    INSERT INTO public.core_outboxmessage
      (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
    SELECT letter.replay_id, 'replay:' || letter.replay_id, letter.original_topic,
      coalesce(letter.partition_key, original.partition_key), ${PAYLOAD},
      letter.headers || jsonb_build_object('${REPLAY_HEADER}', letter.id, 'idempotency_key', letter.idempotency_key),
      now(), 0, coalesce(original.max_attempts, 5), 'pending'
    FROM started AS letter LEFT JOIN public.core_outboxmessage AS original ON original.id = letter.original_outbox_id
    ORDER BY ${ORDER}
  )
  SELECT letter.id AS "letterId", coalesce(started.replay_id, letter.replay_id) AS "messageId",
    coalesce(letter.original_seq, 0) AS seq, letter.created_at::text AS "createdAt"
  FROM chosen AS letter LEFT JOIN started USING (id)
  ORDER BY ${ORDER}`;

export interface ReplayOutcome {
  resolved: number;
  failed: number;
  /** Letters whose message is neither delivered nor dead yet. */
  open: number;
}

/** Resolves the letters among `replays` whose message is delivered, and counts what became of all. */
export async function settleReplays(
  client: Queryable,
  replays: Replay[],
  { by, notes }: Resolution,
): Promise<ReplayOutcome> {
  const letterIds = replays.map(({ letterId }) => letterId);
  const messageIds = replays.map(({ messageId }) => messageId);
  await client.query(
    `UPDATE public.core_deadlettermessage AS letter
     SET resolved = true, resolved_at = now(), resolved_by = $3,
         resolution_notes = concat_ws('; ', $4::text, 'replayed as message ' || message.id)
     FROM unnest($1::uuid[], $2::uuid[]) AS replay (letter_id, message_id)
     JOIN public.core_outboxmessage AS message ON message.id = replay.message_id AND message.status = 'published'
     WHERE letter.id = replay.letter_id AND NOT letter.resolved`,
    [letterIds, messageIds, by, notes],
  );
  const { rows } = await client.query<ReplayOutcome>(
    `SELECT count(*) FILTER (WHERE letter.resolved)::int AS resolved,
       count(*) FILTER (WHERE NOT letter.resolved AND message.status IN ('pending', 'failed', 'published'))::int AS open,
       count(*) FILTER (WHERE letter.resolved IS NOT TRUE AND coalesce(message.status, 'gone') IN ('dead', 'gone'))::int AS failed
     FROM unnest($1::uuid[], $2::uuid[]) AS replay (letter_id, message_id)
     LEFT JOIN public.core_deadlettermessage AS letter ON letter.id = replay.letter_id
     LEFT JOIN public.core_outboxmessage AS message ON message.id = replay.message_id`,
    [letterIds, messageIds],
  );
  return rows[0]!;
}
