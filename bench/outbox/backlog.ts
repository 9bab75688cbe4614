// How the relay's rate depends on what lies in the table beside the rows that it delivers: a deep backlog, an old
// snapshot that keeps Postgres from cleaning up, parked rows and rows that they hold back.
import pg from 'pg';
import { claimQuery, FROM_THE_START } from '../../src/database/outboxClaim.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { MAX_BATCH_ROWS } from '../../src/domain/outbox.ts';
import { outboxDatabase } from '../../test/support/database.ts';
import { eventually } from '../../test/support/eventually.ts';
import { startRelay } from '../../test/support/relay.ts';
import { median, type Reporter } from '../report.ts';
import { postgresSetting } from './postgresSetting.ts';
import { cpuSecondsOf } from './process.ts';
import { KEYS, PAYLOAD_BYTES } from './rows.ts';
import { newTopic } from './topics.ts';

export interface BacklogSizes {
  /** Rows of each drain. */
  rows: number;
  deep: number;
  parked: number[];
  rounds: number;
}

type Database = Awaited<ReturnType<typeof outboxDatabase>>;

export async function measureBacklog(reporter: Reporter, sizes: BacklogSizes): Promise<void> {
  // Whoever comes first in a process runs on cold code.
  await using database = await outboxDatabase(1);
  await fill(database, await newTopic(), { rows: sizes.rows });
  await drain(database, sizes.rows);
  await measurePins(reporter, sizes);
  await measureParked(reporter, sizes);
  await measureDepth(reporter, sizes);
}

/**
 * The same rows as the first of a deep backlog, alone, and as all that is pending in a table as large. With the indexes in
 * memory, as a server has it whose table has so many rows: the stack's 128 MB hold a tenth of them.
 */
async function measureDepth(reporter: Reporter, { rows, deep, rounds }: BacklogSizes): Promise<void> {
  await using _buffers = await postgresSetting('shared_buffers', '4GB');
  const topic = await newTopic();
  await using backlog = await outboxDatabase(1);
  await fill(backlog, topic, { rows: deep });
  await using archive = await outboxDatabase(1);
  await fill(archive, topic, { rows: deep, status: 'published' });
  const cases = {
    backlog_shallow: async (report: Report) => {
      await using database = await outboxDatabase(1);
      await fill(database, topic, { rows });
      await report(database);
    },
    backlog_shallow_large_table: async (report: Report) => {
      await fill(archive, topic, { rows });
      await report(archive);
    },
    backlog_deep: async (report: Report) => {
      await backlog.client.query('CHECKPOINT');
      await report(backlog);
    },
  };
  await alternate(reporter, cases, { rows, rounds });
  reporter.compare('backlog_deep', 'backlog_shallow', 'what a deep backlog leaves of the rate');
  reporter.compare(
    'backlog_shallow_large_table',
    'backlog_shallow',
    'what the size of the table leaves of it',
  );
  reporter.compare('backlog_deep', 'backlog_shallow_large_table', 'what its depth alone leaves of it');
}

/** Transactions that are open in the database for the whole drain. */
async function measurePins(reporter: Reporter, { rows, rounds }: BacklogSizes): Promise<void> {
  const topic = await newTopic();
  const pins = {
    pin_none: '',
    pin_snapshot: 'SELECT',
    pin_transaction: 'SELECT pg_current_xact_id()',
    pin_writer: insertion({ topic, rows: 1 }),
  };
  const cases = Object.entries(pins).map(([name, statement]) => [
    name,
    async (report: Report) => {
      await using database = await outboxDatabase(1);
      await fill(database, topic, { rows });
      const holder = await database.connect();
      if (statement) await holder.query(`BEGIN ISOLATION LEVEL REPEATABLE READ; ${statement}`);
      await report(database);
    },
  ]);
  await alternate(reporter, Object.fromEntries(cases), { rows, rounds });
  for (const name of Object.keys(pins).slice(1))
    reporter.compare(name, 'pin_none', 'what the pin leaves of the rate');
}

/** Rows that are parked, each with a key of its own, and rows of one key that a parked one holds back. */
async function measureParked(reporter: Reporter, { rows, parked, rounds }: BacklogSizes): Promise<void> {
  const topic = await newTopic();
  const most = Math.max(...parked);
  const beside: Record<string, Filling[]> = {
    parked_none: [],
    ...Object.fromEntries(parked.map((count) => [`parked_${count}`, [{ rows: count, ...PARKED }]])),
    [`held_back_${most}`]: [
      { rows: 1, ...PARKED },
      { rows: most, key: `'parked-1'` },
    ],
  };
  const cases = Object.entries(beside).map(([name, fillings]) => [
    name,
    async (report: Report) => {
      await using database = await outboxDatabase(1);
      for (const filling of fillings) await fill(database, topic, filling);
      await fill(database, topic, { rows });
      await report(database);
    },
  ]);
  await alternate(reporter, Object.fromEntries(cases), { rows, rounds });
  for (const name of Object.keys(beside).slice(1))
    reporter.compare(name, 'parked_none', 'what they leave of the rate');
}

type Report = (database: Database) => Promise<void>;

/** There and back again, so that a machine that gets slower or faster favours none of them. */
async function alternate(
  reporter: Reporter,
  cases: Record<string, (report: Report) => Promise<void>>,
  { rows, rounds }: { rows: number; rounds: number },
): Promise<void> {
  for (let round = 1; round <= rounds; round += 1) {
    const names = Object.keys(cases);
    for (const name of round % 2 === 1 ? names : names.toReversed()) {
      await cases[name]!(async (database) => {
        const claim = await millisecondsToClaim(database);
        const { rate, cpuPerRow } = await drain(database, rows);
        const fields = { rows, round };
        reporter.emit(name, rate, 'rows/s', fields);
        reporter.emit(`${name}_postgres_cpu_per_row`, cpuPerRow, 'µs', fields);
        reporter.emit(`${name}_claim_from_start`, claim, 'ms', fields);
      });
    }
  }
}

interface Filling {
  rows: number;
  status?: string;
  /** SQL in terms of `n`. */
  key?: string;
}

const PARKED = { status: 'failed', key: `'parked-' || n` };

/** Vacuumed and written to disk, as rows are that have been there for a while. */
async function fill({ client }: Database, topic: string, filling: Filling): Promise<void> {
  await client.query(insertion({ topic, ...filling }));
  await client.query('VACUUM ANALYZE core_outboxmessage');
  await client.query('CHECKPOINT');
}

const insertion = ({ topic, rows, status = 'pending', key }: Filling & { topic: string }) => `
  INSERT INTO core_outboxmessage
    (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status, next_retry_at)
  SELECT gen_random_uuid(), gen_random_uuid(), ${pg.escapeLiteral(topic)}, ${key ?? `'key-' || n % ${KEYS}`},
    jsonb_build_object('n', n, 'text', repeat(md5(n::text), ${Math.floor(PAYLOAD_BYTES / 32)})),
    '{"content_type": "application/json"}', now(), 0, 5, ${pg.escapeLiteral(status)},
    ${status === 'failed' ? `now() + interval '1 day'` : 'NULL'}
  FROM generate_series(1, ${rows}) AS n`;

/** A relay's first claim, which has no floor: the median of five. */
async function millisecondsToClaim(database: Database): Promise<number> {
  const client = await database.connect();
  await OutboxJournal.takeOver(client, 0, database.deployment, 'bench');
  const values = [0, MAX_BATCH_ROWS, FROM_THE_START, '0'];
  const times: number[] = [];
  for (const _ of Array(5).keys()) {
    const started = performance.now();
    await client.query({ name: 'claim', text: claimQuery(1), values });
    times.push(performance.now() - started);
  }
  await client.end();
  return median(times);
}

/**
 * Lets a relay in this process deliver `rows` more rows. From the first commit that settled a batch to the last, by
 * Postgres' clock; the processor time is that of the relay's own connection.
 */
async function drain(database: Database, rows: number): Promise<{ rate: number; cpuPerRow: number }> {
  const { client } = database;
  const { total } = await settled(client);
  await using relay = startRelay(database, 0);
  // The relay ends by itself only with an error.
  const reached = (wanted: number) =>
    Promise.race([
      untilSettled(client, wanted),
      relay.done.then(() => Promise.reject(new Error('no relay'))),
    ]);
  const first = await reached(total + 1);
  const pid = await relayBackend(client);
  const from = { rows: await settled(client), cpu: cpuSecondsOf(pid) };
  const last = await reached(total + rows);
  return {
    rate: (last.total - first.total) / (last.at - first.at),
    cpuPerRow: ((cpuSecondsOf(pid) - from.cpu) * 1e6) / (last.total - from.rows.total),
  };
}

/** What the journal has counted, and when, in seconds. */
async function settled(client: pg.ClientBase): Promise<{ total: number; at: number }> {
  const { rows } = await client.query(
    `SELECT delivered_total::float8 AS total, extract(epoch FROM settled_at)::float8 AS at
     FROM orchestrator.outbox_journal`,
  );
  return rows[0];
}

const untilSettled = (client: pg.ClientBase, total: number) =>
  eventually(
    `${total} rows settled`,
    async () => {
      const found = await settled(client);
      return found.total >= total ? found : undefined;
    },
    { withinMs: 300_000, everyMs: 20 },
  );

async function relayBackend(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'somaagent-orchestrator' AND query NOT LIKE 'LISTEN%'`,
  );
  return rows[0]!.pid;
}
