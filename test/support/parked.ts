import type pg from 'pg';
import { park } from '../../src/database/outboxParking.ts';
import { inTransaction } from '../../src/database/postgres.ts';

/** Refuses pending rows as a relay of one shard does: parked, or dead if that was the last attempt. Returns how many died. */
export async function refuse(client: pg.ClientBase, ids: (string | undefined)[]): Promise<number> {
  const { rows } = await client.query<{ seq: string }>(
    'SELECT relay_seq AS seq FROM core_outboxmessage WHERE id = ANY($1) ORDER BY relay_seq',
    [ids],
  );
  const rejection = { code: 'invalid_record', message: 'refused by a test' } as const;
  return inTransaction(client, () =>
    park(
      client,
      0,
      1,
      rows.map(({ seq }) => ({ seq, rejection })),
    ),
  );
}
