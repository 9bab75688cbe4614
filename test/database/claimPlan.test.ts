import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type pg from 'pg';
import { claimQuery, FROM_THE_START } from '../../src/database/outboxClaim.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { MAX_BATCH_ROWS } from '../../src/domain/outbox.ts';
import { outboxDatabase } from '../support/database.ts';

const SHARDS = 2;
const SHARD = 0;
const PENDING_INDEX = `orchestrator_outbox_pending_${SHARDS}`;
/** The running sum looks one row ahead, to see that it is outside of its frame. */
const LOOK_AHEAD = 1;

interface PlanNode {
  'Node Type': string;
  'Index Name'?: string;
  'Subplan Name'?: string;
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Index Recheck'?: number;
  'Shared Hit Blocks': number;
  'Shared Read Blocks': number;
  Filter?: string;
  Plans?: PlanNode[];
}

interface Statement {
  name?: string;
  text: string;
  values: unknown[];
}

type Database = Awaited<ReturnType<typeof outboxDatabase>>;

/** Years of published rows, a backlog behind them, and keys that a parked message holds back. */
async function fill(client: pg.Client): Promise<void> {
  await insert(client, { status: 'published', rows: 200_000, key: `'p' || n % 5000` });
  await insert(client, { status: 'pending', rows: 50_000, key: `'k' || n % 5000` });
}

interface Series {
  status: string;
  rows: number;
  /** SQL in terms of `n`. */
  key: string;
}

async function insert(client: pg.Client, { status, rows, key }: Series): Promise<void> {
  await client.query(
    `INSERT INTO core_outboxmessage
       (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
     SELECT gen_random_uuid(), gen_random_uuid(), 'plans', ${key}, jsonb_build_object('n', n), '{}', now(), 0, 5, $1
     FROM generate_series(1, $2::int) AS n`,
    [status, rows],
  );
}

/** The connection as the relay's: whatever takeOver sets for the planner is set here too. */
async function relaySession(database: Database) {
  const client = await database.connect();
  const journal = await OutboxJournal.takeOver(client, SHARD, database.deployment, 'test');
  return { client, journal };
}

async function explain(client: pg.Client, { text, values }: Statement): Promise<PlanNode> {
  const { rows } = await client.query(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${text}`, values);
  return rows[0]['QUERY PLAN'][0].Plan;
}

/** The plan that a prepared statement gets once Postgres has stopped to look at the values. */
async function explainGeneric(client: pg.Client, { text, values }: Statement): Promise<PlanNode> {
  await client.query(`SET plan_cache_mode = force_generic_plan; PREPARE generic AS ${text}`);
  const literals = values.map((value) => (Array.isArray(value) ? `'{${value}}'` : `${value}`));
  const { rows } = await client.query(
    `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE generic(${literals.join(', ')})`,
  );
  await client.query('DEALLOCATE generic; RESET plan_cache_mode');
  return rows[0]['QUERY PLAN'][0].Plan;
}

const nodesOf = (plan: PlanNode): PlanNode[] => [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];
const buffersOf = (plan: PlanNode): number => plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];

/** All rows that a node looked at, kept or not. */
const rowsReadBy = (node: PlanNode): number =>
  node['Actual Loops'] *
  (node['Actual Rows'] +
    (node['Rows Removed by Filter'] ?? 0) +
    (node['Rows Removed by Index Recheck'] ?? 0));

function scanOf(plan: PlanNode, index: string): PlanNode {
  const nodes = nodesOf(plan);
  const scan = nodes.find((node) => node['Index Name'] === index);
  assert.ok(scan, `${index} is not used: ${JSON.stringify(plan, null, 1)}`);
  const bad = nodes.filter((node) => /Seq Scan|Sort|Bitmap|Nested Loop/.test(node['Node Type']));
  assert.deepEqual(bad, []);
  return scan;
}

const NO_FLOOR = [FROM_THE_START, '0'];

const claim = (limit = MAX_BATCH_ROWS): Statement => ({
  text: claimQuery(SHARDS),
  values: [SHARD, limit, ...NO_FLOOR],
});

function assertReadsWhatItReturns(plan: PlanNode, limit: number): void {
  const scan = scanOf(plan, PENDING_INDEX);
  assert.equal(plan['Actual Rows'], limit);
  assert.ok(rowsReadBy(scan) <= limit + LOOK_AHEAD, `read ${rowsReadBy(scan)} rows to return ${limit}`);
}

/** Runs `work` and returns the named statements that the relay's own code sent meanwhile. */
async function recorded(client: pg.Client, work: () => Promise<unknown>): Promise<Map<string, Statement>> {
  const statements = new Map<string, Statement>();
  const send = client.query.bind(client) as (...args: unknown[]) => unknown;
  const record = (config: string | Statement, ...rest: unknown[]) => {
    if (typeof config === 'object' && config.name) statements.set(config.name, config);
    return send(config, ...rest);
  };
  client.query = record as typeof client.query;
  await work();
  client.query = send as typeof client.query;
  return statements;
}

describe('Claiming from 50,000 pending rows with 200,000 published ones beside them', () => {
  let database: Database;

  before(async () => {
    database = await outboxDatabase(SHARDS);
    await fill(database.client);
  });
  after(() => database[Symbol.asyncDispose]());

  for (const limit of [1, 100, MAX_BATCH_ROWS]) {
    test(`A claim of ${limit} reads no more rows than it returns, without statistics`, async () => {
      const { client } = await relaySession(database);
      assertReadsWhatItReturns(await explain(client, claim(limit)), limit);
      assertReadsWhatItReturns(await explainGeneric(client, claim(limit)), limit);
    });
  }

  test('The same with statistics, and with statistics from a time when nothing was pending', async () => {
    const { client } = await relaySession(database);
    await client.query('ANALYZE core_outboxmessage');
    assertReadsWhatItReturns(await explain(client, claim()), MAX_BATCH_ROWS);
    assertReadsWhatItReturns(await explainGeneric(client, claim()), MAX_BATCH_ROWS);
    await client.query(`BEGIN; UPDATE core_outboxmessage SET status = 'dead' WHERE status = 'pending'`);
    await client.query('ANALYZE core_outboxmessage');
    await client.query(`UPDATE core_outboxmessage SET status = 'pending' WHERE status = 'dead'`);
    assertReadsWhatItReturns(await explain(client, claim()), MAX_BATCH_ROWS);
    assertReadsWhatItReturns(await explainGeneric(client, claim()), MAX_BATCH_ROWS);
    await client.query('ROLLBACK');
    await client.query('VACUUM ANALYZE core_outboxmessage');
  });

  test('A claim touches a bounded number of pages: fewer than one for each row', async () => {
    const { client } = await relaySession(database);
    const buffers = buffersOf(await explain(client, claim()));
    assert.ok(buffers < MAX_BATCH_ROWS, `${buffers} pages`);
  });

  test('Rows are marked published, and parked ones looked up, by the partial indexes', async () => {
    const { client, journal } = await relaySession(database);
    const statements = await recorded(client, async () => {
      const { batch } = await journal.open(0, MAX_BATCH_ROWS);
      assert.equal(batch?.records.length, MAX_BATCH_ROWS);
      await journal.retryDue(() => ({ refused: [], released: [] }));
      await journal.countParked();
      const { number, batchId, records } = batch;
      await journal.settleAndOpen({ number, batchId, seqs: records.map(({ seq }) => seq) }, MAX_BATCH_ROWS);
    });
    const settle = statements.get('outbox-settle')!;
    // The rows that it marked are no longer pending: it is shown those of the batch that is open now.
    const { rows } = await client.query(
      'SELECT open_seqs FROM orchestrator.outbox_journal WHERE shard = $1',
      [SHARD],
    );
    const values = [SHARD, rows[0].open_seqs];
    for (const show of [explain, explainGeneric]) {
      await client.query('BEGIN');
      const plan = await show(client, { ...settle, values });
      await client.query('ROLLBACK');
      assert.equal(rowsReadBy(scanOf(plan, PENDING_INDEX)), MAX_BATCH_ROWS);
      for (const name of ['outbox-due', 'outbox-count-parked']) {
        const pages = buffersOf(await show(client, statements.get(name)!));
        assert.ok(pages < 20, `${name} touches ${pages} pages`);
      }
    }
  });
});

const PARKED = 1_000;

describe('Claiming while 1,000 parked rows hold their keys back', () => {
  let database: Database;

  before(async () => {
    database = await outboxDatabase(SHARDS);
    await fill(database.client);
    await insert(database.client, { status: 'failed', rows: PARKED, key: `'parked' || n` });
  });
  after(() => database[Symbol.asyncDispose]());

  for (const statistics of ['without statistics', 'with statistics']) {
    test(`What is parked is read once, and looked up for the rows that are claimed, ${statistics}`, async () => {
      const { client } = await relaySession(database);
      if (statistics === 'with statistics') await client.query('ANALYZE core_outboxmessage');
      for (const show of [explain, explainGeneric]) {
        const plan = await show(client, claim());
        assertReadsWhatItReturns(plan, MAX_BATCH_ROWS);
        const lookUps = nodesOf(plan).filter((node) => node['Index Name'] === 'orchestrator_outbox_parked');
        assert.ok(lookUps.some((node) => node['Actual Loops'] > 1));
        const others = nodesOf(plan).filter((node) => node['Index Name'] !== PENDING_INDEX);
        const read = others.filter((node) => node['Index Name']).map(rowsReadBy);
        assert.ok(Math.max(...read) <= PARKED, `read ${read} parked rows`);
      }
    });

    test(`A floor spares the rows that are held back below it while the parked row is parked, ${statistics}`, async () => {
      const { client } = await relaySession(database);
      if (statistics === 'with statistics') await client.query('ANALYZE core_outboxmessage');
      await client.query(`BEGIN; DELETE FROM core_outboxmessage WHERE status <> 'published'`);
      await insert(client, { status: 'failed', rows: 1, key: `'held'` });
      await insert(client, { status: 'pending', rows: 10_000, key: `'held'` });
      const { rows } = await client.query(
        `SELECT max(relay_seq) AS floor, sum(hashint8extended(relay_seq, 0)) FILTER (WHERE status = 'failed') AS parked,
           abs(hashtextextended('held', 0) % ${SHARDS}) AS shard
         FROM core_outboxmessage WHERE partition_key = 'held'`,
      );
      const { floor, parked, shard } = rows[0];
      await insert(client, { status: 'pending', rows: 1_000, key: `'k' || n` });
      const statement = { text: claimQuery(SHARDS), values: [shard, 100, floor, parked] };
      for (const show of [explain, explainGeneric])
        assertReadsWhatItReturns(await show(client, statement), 100);
      await client.query(`UPDATE core_outboxmessage SET status = 'pending' WHERE status = 'failed'`);
      const released = await client.query(statement.text, statement.values);
      assert.ok(released.rows.every(({ key }) => key === 'held'));
      await client.query('ROLLBACK');
    });
  }

  test('Rows of a held key are left out: of that topic and key only, and never rows without a key', async () => {
    const { client } = await relaySession(database);
    await client.query(`BEGIN; DELETE FROM core_outboxmessage WHERE status = 'pending'`);
    await insert(client, { status: 'pending', rows: 10, key: `'parked' || n` });
    await insert(client, { status: 'failed', rows: 10, key: 'NULL' });
    await insert(client, { status: 'pending', rows: 10, key: 'NULL' });
    await insert(client, { status: 'pending', rows: 10, key: `'free' || n` });
    await client.query(
      `INSERT INTO core_outboxmessage (id, idempotency_key, topic, partition_key, payload, created_at)
       VALUES (gen_random_uuid(), 'other', 'other-topic', 'parked1', '{}', now())`,
    );
    const claimed: string[] = [];
    for (let shard = 0; shard < SHARDS; shard += 1) {
      const { rows } = await client.query(claimQuery(SHARDS), [shard, 100, ...NO_FLOOR]);
      claimed.push(...rows.map(({ topic, key }) => `${topic} ${key}`));
    }
    const free = Array.from({ length: 10 }, (_, n) => `plans free${n + 1}`);
    const keyless = Array<string>(10).fill('plans null');
    assert.deepEqual(claimed.sort(), [...free, ...keyless, 'other-topic parked1'].sort());
    await client.query('ROLLBACK');
  });
});

test('Rows are marked by the index of pending rows, also where it has drained and the statistics are of that time', async () => {
  await using database = await outboxDatabase(SHARDS);
  await insert(database.client, { status: 'pending', rows: 40_000, key: `'k' || n` });
  await database.client.query(`UPDATE core_outboxmessage SET status = 'published'`);
  await database.client.query('VACUUM ANALYZE core_outboxmessage');
  await insert(database.client, { status: 'pending', rows: 5_000, key: `'k' || n` });
  const { client, journal } = await relaySession(database);
  const { batch } = await journal.open(0, 10);
  const { number, batchId, records } = batch!;
  const seqs = records.map(({ seq }) => seq);
  const statements = await recorded(client, async () => {
    await journal.settle({ number, batchId, seqs });
  });
  const settle = { ...statements.get('outbox-settle')!, values: [SHARD, seqs] };
  for (const show of [explain, explainGeneric]) scanOf(await show(client, settle), PENDING_INDEX);
});

test('Large payloads that have no room in the batch are not read', async () => {
  await using database = await outboxDatabase(1);
  await database.client.query(
    `INSERT INTO core_outboxmessage (id, idempotency_key, topic, payload, created_at)
     SELECT gen_random_uuid(), n, 'plans', to_jsonb(noise), now()
     FROM (SELECT string_agg(md5(random()::text), '') AS noise FROM generate_series(1, 10000)) AS payload,
       generate_series(1, 100) AS n`,
  );
  const client = await database.connect();
  await OutboxJournal.takeOver(client, 0, database.deployment, 'test');
  const plan = await explain(client, { text: claimQuery(1), values: [0, MAX_BATCH_ROWS, ...NO_FLOOR] });
  assert.equal(plan['Actual Rows'], 2);
  // One payload fills forty pages; three are read, each of them once.
  assert.ok(buffersOf(plan) < 300, `${buffersOf(plan)} pages`);
});
