import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { type Claim, claimOnce, type Hold } from '../../src/database/idempotency.ts';
import type { Queryable } from '../../src/database/postgres.ts';

export interface Asked {
  key?: string;
  operation?: string;
  payloadHash?: string | null;
  holdSeconds?: number;
  keepSeconds?: number;
}

export const claim = (client: Queryable, asked: Asked = {}): Promise<Claim> =>
  claimOnce(client, { key: 'k', operation: 'op', holdSeconds: 60, keepSeconds: 86_400, ...asked });

/** A claim that has to succeed. */
export async function hold(client: Queryable, asked: Asked = {}): Promise<Hold> {
  const claimed = await claim(client, asked);
  if (claimed.outcome !== 'run') throw new Error(`${asked.key} is ${claimed.outcome}`);
  return claimed.hold;
}

/** Lets the record's time run out without waiting for it: as it was written, but a second ago. */
export async function expire(client: pg.ClientBase, key = 'k'): Promise<void> {
  await client.query(
    `UPDATE core_idempotencyrecord SET expires_at = moment,
       own_expires_at = CASE WHEN own_expires_at = expires_at THEN moment ELSE own_expires_at END
     FROM (SELECT clock_timestamp() - interval '1 second' AS moment) AS clock WHERE idempotency_key = $1`,
    [key],
  );
}

/** `IdempotencyRecord.check_and_set`, statement by statement, as Django's ORM sends it. Its time is its own clock's. */
export async function djangoCheckAndSet(
  client: pg.ClientBase,
  key = 'k',
  operation = 'op',
  clock = new Date(),
): Promise<{ isNew: boolean; result: unknown }> {
  const expires = new Date(clock.getTime() + 86_400_000);
  const { rows } = await client.query<{ id: string; result: unknown; expires_at: Date }>(
    `SELECT "id", "idempotency_key", "operation_type", "result", "created_at", "expires_at"
     FROM "core_idempotencyrecord" WHERE "idempotency_key" = $1 LIMIT 21`,
    [key],
  );
  const [record] = rows;
  if (!record) {
    await client.query(
      `INSERT INTO "core_idempotencyrecord" ("id", "idempotency_key", "operation_type", "result", "created_at", "expires_at")
       VALUES ($1, $2, $3, NULL, $4, $5)`,
      [randomUUID(), key, operation, clock, expires],
    );
    return { isNew: true, result: null };
  }
  if (record.expires_at >= clock) return { isNew: false, result: record.result };
  await djangoSave(client, record.id, { operation, result: null, expires });
  return { isNew: true, result: null };
}

/** `record.result = …; record.save()` after the work. */
export async function djangoStore(client: pg.ClientBase, result: unknown, key = 'k'): Promise<void> {
  await client.query(`UPDATE "core_idempotencyrecord" SET "result" = $2 WHERE "idempotency_key" = $1`, [
    key,
    JSON.stringify(result),
  ]);
}

async function djangoSave(
  client: pg.ClientBase,
  id: string,
  { operation, result, expires }: { operation: string; result: unknown; expires: Date },
): Promise<void> {
  await client.query(
    `UPDATE "core_idempotencyrecord" SET "operation_type" = $2, "result" = $3, "expires_at" = $4 WHERE "id" = $1`,
    [id, operation, result, expires],
  );
}
