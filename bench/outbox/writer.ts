// The writer of the latency measurements, as its own process so that it and the consumer do not wait for each other's
// event loop. Each row is a transaction of its own. Told what to write by its first argument, it answers with the
// moment at which each row's commit had returned.
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { KEYS, PAYLOAD_BYTES } from './rows.ts';

export interface WriterTask {
  url: string;
  topic: string;
  rows: number;
  /** Between two rows: a steady pace, or pauses chosen at random between two bounds. */
  pauseMs: number | [number, number];
}

/** By id. CLOCK_MONOTONIC, which all processes of a machine share, in milliseconds. */
export type Commits = [id: string, at: number][];

export const monotonicMs = (): number => Number(process.hrtime.bigint()) / 1e6;

/** Enough that a slow commit does not hold up the pace. */
const CONNECTIONS = 8;

async function write({ url, topic, rows, pauseMs }: WriterTask): Promise<Commits> {
  const pool = new pg.Pool({ connectionString: url, max: CONNECTIONS, min: CONNECTIONS });
  await Promise.all(Array.from({ length: CONNECTIONS }, () => pool.query('SELECT pg_sleep(0.1)')));
  const commits: Promise<Commits[number]>[] = [];
  let due = monotonicMs();
  for (let n = 0; n < rows; n += 1) {
    const pause =
      typeof pauseMs === 'number' ? pauseMs : pauseMs[0] + Math.random() * (pauseMs[1] - pauseMs[0]);
    due += pause;
    const early = due - monotonicMs();
    // Timers are a millisecond coarse: rows that are due within it go at once, and the pace holds on average.
    if (early >= 1) await delay(early);
    commits.push(insert(pool, topic, n));
  }
  const done = await Promise.all(commits);
  await pool.end();
  return done;
}

async function insert(pool: pg.Pool, topic: string, n: number): Promise<Commits[number]> {
  const id = randomUUID();
  await pool.query({
    name: 'insert',
    text: `INSERT INTO core_outboxmessage
             (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
           VALUES ($1::uuid, $1::uuid::text, $2, $3, $4, '{"content_type": "application/json"}', now(), 0, 5, 'pending')`,
    values: [id, topic, `key-${n % KEYS}`, JSON.stringify({ n, text: 'x'.repeat(PAYLOAD_BYTES - 20) })],
  });
  return [id, monotonicMs()];
}

if (import.meta.main) {
  const commits = await write(JSON.parse(process.argv[2]!) as WriterTask);
  // Disconnecting at once would cut a message that is larger than the pipe.
  process.send!(commits, () => process.disconnect());
}
