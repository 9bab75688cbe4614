import type pg from 'pg';
import { park } from '../../src/database/outboxParking.ts';
import { inTransaction } from '../../src/database/postgres.ts';

/** Refuses pending rows as a relay of one shard does: parked, or dead if that was the last attempt. Returns how many died. */
export async function refuse(client: pg.ClientBase, ids: (string | undefined)[]): Promise<number> {
  const rejection = { code: 'invalid_record', message: 'refused by a test' } as const;
  return inTransaction(client, () =>
    park(
      client,
      ids.map((id) => ({ row: { id: id! }, rejection })),
    ),
  );
}
