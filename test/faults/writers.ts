import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { insertRows } from '../support/outbox.ts';
import type { Random } from './random.ts';

/** By this name the server knows the connections of writers, also of those that gave up waiting for a commit. */
export const WRITER = 'fault-writer';
const KEYS = 500;
/** One row in this many is large: batches are cut by bytes as well as by rows. */
const LARGE_EVERY = 200;

export interface WriterOptions {
  url: string;
  topic: string;
  /** Its own, because a key's order is only defined among the rows of one connection. */
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
  while (!until.aborted) {
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
        const key = () => `${name}-${random.between(1, KEYS)}`;
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
  const large = random.between(1, LARGE_EVERY) === 1;
  return {
    number,
    rolledBack,
    padding: 'x'.repeat(large ? random.between(10_000, 300_000) : random.between(0, 500)),
  };
}
