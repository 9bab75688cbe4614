import { createHash } from 'node:crypto';
import type pg from 'pg';
import {
  ownBytes,
  refersToOwnBytes,
  type TierName,
  type Upload,
  type UploadReceipt,
  type UploadRequest,
  type UploadRowState,
} from '../domain/uploads.ts';
import type { Queryable } from './postgres.ts';

/** An upload that a message asks for; its bytes are in it, or where `dataRef` says. */
export interface AskedUpload extends UploadRequest {
  idempotencyKey: string;
  dataBase64: string | null;
  /** In milliseconds of the epoch, as its record says. */
  sentAt: number;
}

/** Why an upload is not taken. */
export const KEY_OF_OTHER_BYTES = 'the idempotency key belongs to other bytes';
export const NO_OWN_BYTES = 'data_ref names an upload whose bytes are not kept under this idempotency key';

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/**
 * Takes uploads in the caller's transaction: from its commit on, nothing but a tier that has verified the bytes ends
 * them. A key that is there already is not taken again, except that an upload which had become a dead letter waits
 * again, and one that was cancelled before the message was sent. Returns those that must not be taken, with the reason.
 */
export async function takeUploads<Asked extends AskedUpload>(
  client: pg.ClientBase,
  asked: Asked[],
): Promise<{ upload: Asked; fault: string }[]> {
  if (asked.length === 0) return [];
  const known = asked.map((upload) => {
    const bytes = upload.dataBase64 === null ? null : Buffer.from(upload.dataBase64, 'base64');
    return { upload, bytes, sha256: bytes && sha256(bytes) };
  });
  await insert(
    client,
    known.filter(({ upload }) => !refersToOwnBytes(upload.dataRef)),
  );
  const rows = await existing(
    client,
    asked.map(({ idempotencyKey }) => idempotencyKey),
  );
  const faults = known.map(({ upload, sha256 }) => ({
    upload,
    fault: faultOf(rows.get(upload.idempotencyKey), { ...upload, sha256 }),
  }));
  await revive(
    client,
    faults.filter(({ fault }) => fault === undefined).map(({ upload }) => upload),
  );
  return faults.filter((refused): refused is { upload: Asked; fault: string } => refused.fault !== undefined);
}

interface Known {
  upload: AskedUpload;
  bytes: Buffer | null;
  sha256: string | null;
}

async function insert(client: Queryable, asked: Known[]): Promise<void> {
  // In the order of their keys, so that two who insert the same keys wait for one another and not for ever. Of a key that
  // is there twice the first counts: the sort keeps their order.
  const sorted = asked.toSorted((one, other) =>
    one.upload.idempotencyKey < other.upload.idempotencyKey
      ? -1
      : Number(one.upload.idempotencyKey > other.upload.idempotencyKey),
  );
  await client.query({
    name: 'uploads-take',
    text: `
      INSERT INTO orchestrator.upload
        (idempotency_key, filename, content_type, metadata, size, sha256, data, data_ref)
      SELECT key, filename, content_type, metadata, size, sha256, data, data_ref
      FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::bigint[], $6::text[], $7::bytea[], $8::text[])
        WITH ORDINALITY AS asked (key, filename, content_type, metadata, size, sha256, data, data_ref, place)
      ORDER BY place
      ON CONFLICT (idempotency_key) DO NOTHING`,
    values: [
      sorted.map(({ upload }) => upload.idempotencyKey),
      sorted.map(({ upload }) => upload.filename),
      sorted.map(({ upload }) => upload.contentType),
      sorted.map(({ upload }) => JSON.stringify(upload.metadata)),
      sorted.map(({ upload }) => upload.size),
      sorted.map(({ sha256 }) => sha256),
      sorted.map(({ bytes }) => bytes),
      sorted.map(({ upload, bytes }) => (bytes === null ? upload.dataRef : null)),
    ],
  });
}

interface ExistingRow {
  key: string;
  size: string;
  sha256: string | null;
  data_ref: string | null;
}

async function existing(client: Queryable, keys: string[]): Promise<Map<string, ExistingRow>> {
  const { rows } = await client.query<ExistingRow>({
    name: 'uploads-existing',
    text: `SELECT idempotency_key AS key, size, sha256, data_ref
           FROM orchestrator.upload WHERE idempotency_key = ANY($1::text[])`,
    values: [keys],
  });
  return new Map(rows.map((row) => [row.key, row]));
}

/** Where it cannot be told whether the bytes are the same, they count as others: a dead letter loses nothing. */
function faultOf(
  row: ExistingRow | undefined,
  { idempotencyKey, size, sha256, dataRef }: AskedUpload & { sha256: string | null },
): string | undefined {
  if (refersToOwnBytes(dataRef))
    return row && dataRef === ownBytes(idempotencyKey) ? undefined : NO_OWN_BYTES;
  if (row === undefined) return KEY_OF_OTHER_BYTES;
  const isSame =
    sha256 === null ? row.data_ref === dataRef && Number(row.size) === size : row.sha256 === sha256;
  return isSame ? undefined : KEY_OF_OTHER_BYTES;
}

const REVIVED = `state = 'waiting', attempts = 0, last_error = NULL, updated_at = now()`;

/** What was sent before the cancellation only comes again; what was sent after it is a new wish. */
async function revive(client: Queryable, asked: AskedUpload[]): Promise<void> {
  await client.query({
    name: 'uploads-revive',
    text: `UPDATE orchestrator.upload SET ${REVIVED}
           FROM unnest($1::text[], $2::float8[]) AS asked (key, sent_at)
           WHERE idempotency_key = key
             AND (state = 'failed' OR state = 'cancelled' AND sent_at > extract(epoch FROM updated_at) * 1000)`,
    values: [asked.map(({ idempotencyKey }) => idempotencyKey), asked.map(({ sentAt }) => sentAt)],
  });
}

/**
 * Takes an upload that a person asks for, by reference. One that is there with the same reference is found, and waits
 * again if it was cancelled or had failed; one whose bytes nobody ever saw takes the new reference on.
 * Returns false if the key belongs to other bytes.
 */
export async function takeByReference(
  client: Queryable,
  idempotencyKey: string,
  { filename, contentType, metadata, size, dataRef }: UploadRequest,
): Promise<boolean> {
  const { rowCount } = await client.query(
    `INSERT INTO orchestrator.upload AS upload (idempotency_key, filename, content_type, metadata, size, data_ref)
     VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (idempotency_key) DO UPDATE
       SET filename = EXCLUDED.filename, content_type = EXCLUDED.content_type, metadata = EXCLUDED.metadata,
         size = EXCLUDED.size, data_ref = EXCLUDED.data_ref
       WHERE upload.data_ref = EXCLUDED.data_ref AND upload.size = EXCLUDED.size
         OR upload.state IN ('failed', 'cancelled') AND upload.sha256 IS NULL`,
    [idempotencyKey, filename, contentType, JSON.stringify(metadata), size, dataRef],
  );
  if (rowCount === 1) await wakeUpload(client, idempotencyKey);
  return rowCount === 1;
}

/** A cancelled or failed upload waits again. */
export async function wakeUpload(client: Queryable, idempotencyKey: string): Promise<void> {
  await client.query(
    `UPDATE orchestrator.upload SET ${REVIVED} WHERE idempotency_key = $1 AND state IN ('failed', 'cancelled')`,
    [idempotencyKey],
  );
}

interface UploadRow {
  idempotencyKey: string;
  filename: string;
  contentType: string | null;
  metadata: Record<string, unknown>;
  size: string;
  dataRef: string | null;
  sha256: string | null;
  state: UploadRowState;
  attempts: number;
  lastError: string | null;
  tier: TierName | null;
  location: string;
  durability: string;
  storedAt: Date;
  promotedAt: Date | null;
  touchedTiers: TierName[];
}

/** Without the bytes; undefined if there is none. */
export async function readUpload(client: Queryable, idempotencyKey: string): Promise<Upload | undefined> {
  const { rows } = await client.query<UploadRow>({
    name: 'upload-read',
    text: `SELECT idempotency_key AS "idempotencyKey", filename, content_type AS "contentType", metadata, size,
             data_ref AS "dataRef", sha256, state, attempts, last_error AS "lastError", tier, location, durability,
             stored_at AS "storedAt", promoted_at AS "promotedAt", touched_tiers AS "touchedTiers"
           FROM orchestrator.upload WHERE idempotency_key = $1`,
    values: [idempotencyKey],
  });
  return rows[0] && toUpload(rows[0]);
}

function toUpload(row: UploadRow): Upload {
  const { idempotencyKey, filename, contentType, metadata, dataRef, sha256, state, attempts, lastError } =
    row;
  const size = Number(row.size);
  const asked = { idempotencyKey, filename, contentType, metadata, size, dataRef };
  return {
    ...asked,
    sha256,
    state,
    attempts,
    lastError,
    receipt: receiptOf(row),
    touchedTiers: row.touchedTiers,
  };
}

function receiptOf({
  filename,
  tier,
  location,
  size,
  sha256,
  durability,
  attempts,
  ...times
}: UploadRow): UploadReceipt | null {
  if (tier === null || sha256 === null) return null;
  return {
    filename,
    tier,
    location,
    size: Number(size),
    sha256,
    durability,
    attempts,
    stored_at: times.storedAt.toISOString(),
    promoted_at: times.promotedAt?.toISOString() ?? null,
  };
}

/** The bytes that a message brought; null where it brought a reference, or a tier better than Redis has them. */
export async function readUploadBytes(client: Queryable, idempotencyKey: string): Promise<Buffer | null> {
  const { rows } = await client.query<{ data: Buffer | null }>(
    'SELECT data FROM orchestrator.upload WHERE idempotency_key = $1',
    [idempotencyKey],
  );
  return rows[0]?.data ?? null;
}
