import assert from 'node:assert/strict';
import type pg from 'pg';
import type { Deployment } from '../../src/database/deployment.ts';
import { claimQuery, FROM_THE_START } from '../../src/database/outboxClaim.ts';
import { OutboxFloor } from '../../src/database/outboxFloor.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import type { TestDatabase } from './database.ts';
import { insertRows } from './outbox.ts';

export const SHARD = 0;
export const ALL = 1_000;
const topic = 'floor';

interface Claimed {
  seq: string;
  id: string;
  key: string | null;
}

/** A relay's connection and its floor, and what the relay does to rows, without Kafka. */
export class Deliveries {
  readonly client: pg.Client;
  readonly floor: OutboxFloor;

  private constructor(client: pg.Client) {
    this.client = client;
    this.floor = new OutboxFloor(client, SHARD, 1);
  }

  static async on(database: TestDatabase & { deployment: Deployment }): Promise<Deliveries> {
    const client = await database.connect();
    await OutboxJournal.takeOver(client, SHARD, database.deployment, 'test');
    return new Deliveries(client);
  }

  async claim(limit = ALL, { seq, parked }: Pick<OutboxFloor, 'seq' | 'parked'> = this.floor) {
    const values = [SHARD, limit, seq, parked];
    const { rows } = await this.client.query<Claimed>(claimQuery(1), values);
    return rows;
  }

  /** Claims and gives the rows a status. */
  async deliver(limit = ALL, status = 'published'): Promise<Claimed[]> {
    const rows = await this.claim(limit);
    this.floor.passed(rows);
    await this.client.query('UPDATE core_outboxmessage SET status = $2 WHERE relay_seq = ANY($1::bigint[])', [
      rows.map(({ seq }) => seq),
      status,
    ]);
    return rows;
  }

  /** In one snapshot: what is claimed above the floor is what is claimed from the start. */
  async assertNothingMissed(): Promise<Claimed[]> {
    await this.client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const fromStart = await this.claim(ALL, { seq: FROM_THE_START, parked: '0' });
    assert.deepEqual(await this.claim(), fromStart);
    await this.client.query('COMMIT');
    return fromStart;
  }
}

export const insert = (client: pg.ClientBase, ...keys: (string | null)[]) =>
  insertRows(
    client,
    keys.map((key) => ({ topic, key })),
  );

export async function begun(database: TestDatabase): Promise<pg.Client> {
  const client = await database.connect();
  await client.query('BEGIN');
  return client;
}
