import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { insertRows } from '../support/outbox.ts';
import type { Random } from './random.ts';

/** By this name the server knows the connections of writers, also of those that gave up waiting for a commit. */
export const WRITER = 'fault-writer';
/** For each connection; a writer has many in its life. */
const KEYS = 500;
const KEYLESS_EVERY = 20;
/** One row in so many is of that size, the first that fits: batches are cut by bytes as well as by rows. */
const SIZES = [
  { oneIn: 2_000, from: 300_000, to: 900_000 },
  { oneIn: 200, from: 10_000, to: 300_000 },
  { oneIn: 1, from: 0, to: 500 },
];

export interface WriterOptions {
  url: string;
  topic: string;
  name: string;
  random: Random;
  until: AbortSignal;
}

/**
 * A foreign program that commits rows in transactions of 1 to 50, rolls some back, and lives through the absence of
 * Postgres. Whether a commit whose answer was lost took place is nobody's guess: the table says so afterwards.
 */
export async function write({ url, topic, name, random, until }: WriterOptions): Promise<void> {
  let number = 0;
  for (let connection = 1; !until.aborted; connection += 1) {
    const client = new pg.Client({
      connectionString: url,
      application_name: WRITER,
      connectionTimeoutMillis: 2_000,
      query_timeout: 5_000,
    });
    client.on('error', () => {});
    try {
      await client.connect();
      while (!until.aborted) {
        const size = random.between(1, 50);
        // An order is defined among the rows of one connection: a former one may commit long after it was given up.
        const key = () =>
          random.between(1, KEYLESS_EVERY) === 1 ? null : `${name}.${connection}-${random.between(1, KEYS)}`;
        const rollBack = random.next() < 0.1;
        await client.query('BEGIN');
        await insertRows(
          client,
          Array.from({ length: size }, () => ({
            topic,
            key: key(),
            payload: payloadOf(++number, rollBack, random),
          })),
        );
        await client.query(rollBack ? 'ROLLBACK' : 'COMMIT');
        await delay(size * 8);
      }
    } catch {
      await delay(200);
    } finally {
      await client.end().catch(() => {});
    }
  }
}

function payloadOf(number: number, rolledBack: boolean, random: Random): unknown {
  const { from, to } = SIZES.find(({ oneIn }) => random.between(1, oneIn) === 1)!;
  return { number, rolledBack, padding: 'x'.repeat(random.between(from, to)) };
}
