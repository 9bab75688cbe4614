// A foreign program: it knows Postgres and the table core_outboxmessage, and nothing of this project. Commits rows by
// plain SQL in transactions of 1 to 50, rolls some back, and prints what it committed as one line of JSON.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const [databaseUrl, topic, rowsWanted, keys, rowsPerSecond] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string,
];
const WRITERS = 4;

/** One connection with keys of its own, so that the order of a key's rows is the order of its commits. */
async function write(writer: number): Promise<Record<string, number>> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const share = Number(rowsWanted) / WRITERS;
  const started = Date.now();
  const committed: Record<string, number> = {};
  for (let rows = 0; rows < share; ) {
    const size = Math.min(1 + Math.floor(Math.random() * 50), share - rows);
    const rollBack = Math.random() < 0.1;
    const numbers = { ...committed };
    await client.query('BEGIN');
    for (let row = 0; row < size; row += 1) {
      const key = `key-${writer + WRITERS * Math.floor(Math.random() * (Number(keys) / WRITERS))}`;
      numbers[key] = (numbers[key] ?? 0) + 1;
      await insert(client, key, { number: numbers[key], rolledBack: rollBack });
    }
    await client.query(rollBack ? 'ROLLBACK' : 'COMMIT');
    if (rollBack) continue;
    Object.assign(committed, numbers);
    rows += size;
    await sleep(Math.max(0, started + (rows * WRITERS * 1000) / Number(rowsPerSecond) - Date.now()));
  }
  await client.end();
  return committed;
}

async function insert(client: pg.Client, key: string, payload: unknown): Promise<void> {
  await client.query(
    `INSERT INTO core_outboxmessage
       (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
     VALUES ($1, $2, $3, $4, $5, '{"written-by": "demo"}', now(), 0, 5, 'pending')`,
    [randomUUID(), randomUUID(), topic, key, JSON.stringify(payload)],
  );
}

const shares = await Promise.all(Array.from({ length: WRITERS }, (_, writer) => write(writer)));
console.log(JSON.stringify(Object.assign({}, ...shares)));
