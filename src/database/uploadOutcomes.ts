// What becomes of an upload, each step in one statement or one transaction. Every step asks for the state that it starts
// from: one that comes late, from a worker that was thought dead, changes nothing.
import { createHash } from 'node:crypto';
import type pg from 'pg';
import { RECEIPT_TOPIC, type TierName, type Upload, type UploadReceipt } from '../domain/uploads.ts';
import { writeUploadLetter } from './deadLetters.ts';
import { enqueue } from './outbox.ts';
import { inTransaction, type Queryable } from './postgres.ts';
import { readUpload } from './uploads.ts';

/** Under this name the tiers keep an upload; no name of a user's ever becomes a path. */
export const objectKey = (idempotencyKey: string): string =>
  createHash('sha256').update(idempotencyKey).digest('hex');

/** The copy that a tier has verified. */
export interface VerifiedCopy {
  tier: TierName;
  location: string;
  durability: string;
  /** Whether it is to be brought to a better tier. */
  promote: boolean;
}

/** Writes down what was read behind a reference. */
export async function markExamined(client: Queryable, idempotencyKey: string, sha256: string): Promise<void> {
  await client.query(
    `UPDATE orchestrator.upload SET sha256 = $2, updated_at = now() WHERE idempotency_key = $1 AND state = 'waiting'`,
    [idempotencyKey, sha256],
  );
}

/** Names a tier before anything is written to it, so that no copy is ever unknown. */
export async function markTouched(client: Queryable, idempotencyKey: string, tier: TierName): Promise<void> {
  await client.query(
    `UPDATE orchestrator.upload SET touched_tiers = touched_tiers || $2::text, updated_at = now()
     WHERE idempotency_key = $1 AND $2 <> ALL(touched_tiers)`,
    [idempotencyKey, tier],
  );
}

/** These tiers have no bytes of it any more. */
export async function markCleared(
  client: Queryable,
  idempotencyKey: string,
  tiers: TierName[],
): Promise<void> {
  await client.query(
    `UPDATE orchestrator.upload
     SET touched_tiers = ARRAY(SELECT unnest(touched_tiers) EXCEPT SELECT unnest($2::text[])), updated_at = now()
     WHERE idempotency_key = $1`,
    [idempotencyKey, tiers],
  );
}

/** Writes down why a round stored nothing, and how many attempts are spent. */
export async function markTried(
  client: Queryable,
  idempotencyKey: string,
  { error, attempts }: { error: string; attempts: number },
): Promise<void> {
  await client.query(
    `UPDATE orchestrator.upload SET last_error = $2, attempts = $3, updated_at = now()
     WHERE idempotency_key = $1 AND state IN ('waiting', 'promoting')`,
    [idempotencyKey, error, attempts],
  );
}

/**
 * A tier has the bytes: the row says so, drops its own, and an event tells it. Redis may lose what it said it has, so
 * beside it the row keeps them. Returns the upload as it is then.
 */
export function markStored(
  client: pg.ClientBase,
  idempotencyKey: string,
  attempts: number,
  { tier, location, durability, promote }: VerifiedCopy,
): Promise<Upload | undefined> {
  return inTransaction(client, async () => {
    const { rowCount } = await client.query(
      `UPDATE orchestrator.upload
       SET state = $2, tier = $3, location = $4, durability = $5, stored_at = now(), updated_at = now(),
         attempts = $6, last_error = NULL, data = CASE WHEN $3 = 'redis' THEN data END
       WHERE idempotency_key = $1 AND state = 'waiting'`,
      [idempotencyKey, promote ? 'promoting' : 'stored', tier, location, durability, attempts],
    );
    return tell(client, idempotencyKey, rowCount === 1);
  });
}

/** A better tier has the bytes as well. Returns the upload as it is then. */
export function markPromoted(
  client: pg.ClientBase,
  idempotencyKey: string,
  from: TierName,
  { tier, location, durability, promote }: VerifiedCopy,
): Promise<Upload | undefined> {
  return inTransaction(client, async () => {
    const { rowCount } = await client.query(
      `UPDATE orchestrator.upload
       SET state = $3, tier = $4, location = $5, durability = $6, promoted_at = now(), updated_at = now(),
         last_error = NULL, data = NULL
       WHERE idempotency_key = $1 AND state = 'promoting' AND tier = $2`,
      [idempotencyKey, from, promote ? 'promoting' : 'promoted', tier, location, durability],
    );
    return tell(client, idempotencyKey, rowCount === 1);
  });
}

async function tell(client: Queryable, idempotencyKey: string, isNew: boolean): Promise<Upload | undefined> {
  const upload = await readUpload(client, idempotencyKey);
  if (isNew && upload?.receipt) {
    await enqueue(client, {
      idempotencyKey: `upload-receipt:${objectKey(idempotencyKey)}:${upload.receipt.tier}`,
      topic: RECEIPT_TOPIC,
      key: idempotencyKey,
      payload: receiptEvent(upload, upload.receipt),
    });
  }
  return upload;
}

const receiptEvent = ({ idempotencyKey, state, metadata }: Upload, receipt: UploadReceipt) => ({
  idempotency_key: idempotencyKey,
  state,
  ...receipt,
  metadata,
});

/** A copy below a better tier is to be brought there, as an earlier run had given up. */
export async function markPromoting(client: Queryable, idempotencyKey: string): Promise<void> {
  await client.query(
    `UPDATE orchestrator.upload SET state = 'promoting', updated_at = now() WHERE idempotency_key = $1 AND state IN ('stored', 'promoted')`,
    [idempotencyKey],
  );
}

export interface UploadFailure {
  code: string;
  reason: string;
}

/** Gives an upload up: it is a dead letter, and keeps its bytes for a replay. Returns whether it is a new one. */
export function markFailed(
  client: pg.ClientBase,
  idempotencyKey: string,
  { code, reason }: UploadFailure,
): Promise<boolean> {
  return inTransaction(client, async () => {
    const { rowCount } = await client.query(
      `UPDATE orchestrator.upload SET state = 'failed', last_error = $2, updated_at = now()
       WHERE idempotency_key = $1 AND state = 'waiting'`,
      [idempotencyKey, `${code}: ${reason}`],
    );
    if (rowCount === 1) await writeUploadLetter(client, idempotencyKey, { code, reason });
    return rowCount === 1;
  });
}

/**
 * A person wants no more of it. What is stored stays where it is; what is not keeps its bytes in the row. Returns the
 * upload as it is then.
 */
export async function markCancelled(client: Queryable, idempotencyKey: string): Promise<Upload | undefined> {
  await client.query(
    `UPDATE orchestrator.upload
     SET state = CASE WHEN tier IS NULL THEN 'cancelled' WHEN promoted_at IS NULL THEN 'stored' ELSE 'promoted' END,
       updated_at = now()
     WHERE idempotency_key = $1 AND state IN ('waiting', 'promoting')`,
    [idempotencyKey],
  );
  return readUpload(client, idempotencyKey);
}
