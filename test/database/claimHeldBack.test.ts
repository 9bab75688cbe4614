import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import type pg from 'pg';
import { CLAIMING_SESSION, claimQuery, FROM_THE_START, MAX_PARKED } from '../../src/database/outboxClaim.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';

interface Row {
  topic: string;
  key: string | null;
  status: string;
}

/** What a claim without a floor is to return: the places of the rows that no earlier parked row holds back. */
const expected = (rows: Row[]): number[] =>
  rows.flatMap(({ topic, key, status }, place) => {
    const isHeld = rows
      .slice(0, place)
      .some((other) => other.status === 'failed' && other.topic === topic && other.key === key);
    return status === 'pending' && (key === null || !isHeld) ? [place] : [];
  });

const row = fc.record<Row>({
  topic: fc.constantFrom('plans', 'plans.dlq', 'other'),
  key: fc.constantFrom('a', 'b', 'c', null),
  status: fc.constantFrom('pending', 'pending', 'pending', 'failed', 'published', 'dead'),
});

describe('What parked rows hold back', () => {
  let database: TestDatabase;
  let client: pg.Client;

  before(async () => {
    database = await outboxDatabase(1);
    client = database.client;
    await client.query(CLAIMING_SESSION);
  });
  beforeEach(() => client.query('TRUNCATE core_outboxmessage'));
  after(() => database[Symbol.asyncDispose]());

  const insert = (rows: Row[]) =>
    client.query(
      `INSERT INTO core_outboxmessage
         (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
       SELECT gen_random_uuid(), gen_random_uuid()::text, topic, key, to_jsonb(place), '{}', now(), 0, 5, status
       FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS row (topic, key, status, place) ORDER BY place`,
      [rows.map(({ topic }) => topic), rows.map(({ key }) => key), rows.map(({ status }) => status)],
    );

  const series = (rows: number, one: (n: number) => Row) =>
    insert(Array.from({ length: rows }, (_, n) => one(n)));

  /** How many of the claimed shard's rows were looked up one by one among the parked; and what was claimed. */
  async function claim(): Promise<{ lookUps: number; rows: number }> {
    const values = [0, 100, FROM_THE_START, '0'];
    const { rows } = await client.query(`EXPLAIN (ANALYZE, FORMAT JSON) ${claimQuery(1)}`, values);
    const { Plan: plan } = rows[0]['QUERY PLAN'][0];
    const nodes = function* (node: PlanNode): Generator<PlanNode> {
      yield node;
      for (const child of node.Plans ?? []) yield* nodes(child);
    };
    const lookUps = [...nodes(plan)].filter(({ Alias }) => Alias === 'parked');
    return { lookUps: Math.max(...lookUps.map((node) => node['Actual Loops'])), rows: plan['Actual Rows'] };
  }

  test('is what has its topic and key and comes later, whatever else is parked', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(row, { maxLength: 30 }), async (rows) => {
        await client.query('TRUNCATE core_outboxmessage');
        await insert(rows);
        const values = [0, 100, FROM_THE_START, '0'];
        const claimed = await client.query<{ value: string }>(claimQuery(1), values);
        assert.deepEqual(
          claimed.rows.map(({ value }) => Number(value) - 1),
          expected(rows),
        );
      }),
      { numRuns: 150 },
    );
  });

  test('is stepped over by a hash, and letters that are parked behind it make no difference', async () => {
    await series(100, (n) => ({ topic: 'plans', key: `k${n}`, status: 'failed' }));
    await series(900, (n) => ({ topic: 'plans', key: `k${n % 100}`, status: 'pending' }));
    await series(100, (n) => ({ topic: 'plans.dlq', key: `k${n}`, status: 'failed' }));
    await series(5, (n) => ({ topic: 'plans', key: `free${n}`, status: 'pending' }));
    assert.deepEqual(await claim(), { lookUps: 5, rows: 5 });
  });

  test('is looked up row by row where too much is parked for a hash', async () => {
    await series(MAX_PARKED + 1, (n) => ({ topic: 'plans', key: `k${n}`, status: 'failed' }));
    await series(10, (n) => ({ topic: 'plans', key: `k${n}`, status: 'pending' }));
    await series(5, (n) => ({ topic: 'plans', key: `free${n}`, status: 'pending' }));
    assert.deepEqual(await claim(), { lookUps: 15, rows: 5 });
  });
});

interface PlanNode {
  Alias?: string;
  'Actual Loops': number;
  Plans?: PlanNode[];
}
