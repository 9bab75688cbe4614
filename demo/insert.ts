// `npm run insert -- <rows> [topic]`: rows into core_outboxmessage, by one plain SQL statement, to have something to see.
import pg from 'pg';

const [rows = '1', topic = 'conversation.inbound'] = process.argv.slice(2);
if (!/^[1-9]\d{0,6}$/.test(rows)) {
  console.error(`"${rows}" is no number of rows: expected 1 to 9999999`);
  process.exit(2);
}
const client = new pg.Client({
  connectionString:
    process.env.SA01_DATABASE_URL ?? 'postgresql://somaagent:somaagent@localhost:20432/somaagent_core',
});
await client.connect();
await client.query(
  `INSERT INTO core_outboxmessage
     (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
   SELECT gen_random_uuid(), gen_random_uuid(), $2, 'key-' || n % 100, jsonb_build_object('number', n), '{}', now(), 0, 5, 'pending'
   FROM generate_series(1, $1::int) AS n`,
  [rows, topic],
);
await client.end();
console.log(`${rows} rows committed for topic ${topic}`);
