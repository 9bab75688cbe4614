import assert from 'node:assert/strict';
import pg from 'pg';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { eventually } from '../support/eventually.ts';
import type { TestNamespace } from '../support/worker.ts';

/** After the last fault everything has to be well again by itself in this time. */
const SETTLED_WITHIN = { withinMs: 180_000 };

interface Places {
  url: string;
  namespace: TestNamespace;
  workers: WorkerProcess[];
  shards: number;
  /** Writes the last rows, and says how many they are. */
  close(): Promise<number>;
}

/** Table, journal, workflow status and metrics tell one story, and no fault counted as an attempt of a row. */
export async function assertAgreement({ url, namespace, workers, shards, close }: Places): Promise<void> {
  await settled(url);
  const before = await metricSum(workers, 'outbox_messages_published_total');
  const closing = await close();
  const rows = await settled(url);
  const journal = await queryOnce(
    url,
    'SELECT sum(delivered_total)::int AS delivered, count(open_batch)::int AS open FROM orchestrator.outbox_journal',
  );
  assert.deepEqual(journal, [{ delivered: rows, open: 0 }], 'the journal');
  await eventually('the status to say the same', () => isTold(namespace, shards, rows), SETTLED_WITHIN);
  await eventually('the metrics to say the same', async () => {
    // Processes that were killed took their counters with them, so only what was added since can be compared.
    assert.equal(await metricSum(workers, 'outbox_messages_published_total'), before + closing);
    for (const worker of workers) {
      for (const gauge of ['outbox_messages_pending', 'outbox_messages_parked'])
        assert.equal(await metricSum([worker], gauge), 0, gauge);
    }
    return true;
  });
}

/** Waits until every row is published, and returns how many there are. */
async function settled(url: string): Promise<number> {
  return eventually(
    'the table to be settled',
    async () => {
      const found = await queryOnce<{ status: string; attempts: number; rows: number }>(
        url,
        `SELECT status, sum(attempts)::int AS attempts, count(*)::int AS rows
         FROM core_outboxmessage GROUP BY status`,
      );
      assert.deepEqual(
        found.map(({ status, attempts }) => ({ status, attempts })),
        [{ status: 'published', attempts: 0 }],
      );
      return found[0]!.rows;
    },
    SETTLED_WITHIN,
  );
}

async function isTold({ orchestrator }: TestNamespace, shards: number, rows: number): Promise<boolean> {
  const statuses = await Promise.all(
    Array.from({ length: shards }, (_, shard) => orchestrator.outboxRelay(shard).status()),
  );
  assert.equal(
    statuses.reduce((sum, { delivered_total }) => sum + delivered_total, 0),
    rows,
  );
  return statuses.every(
    ({ state, last_error, parked }) => state === 'idle' && last_error === null && parked === 0,
  );
}

/** Over all workers and shards; an absent metric is an error, but for a counter that has counted nothing yet. */
async function metricSum(workers: WorkerProcess[], name: string): Promise<number> {
  let sum = 0;
  for (const { metricsAddress } of workers) {
    const text = await (await fetch(`http://${metricsAddress}/metrics`)).text();
    const values = [...text.matchAll(/^(\w+)\{.*\} (\S+)$/gm)].filter(([, found]) => found === name);
    assert.ok(values.length > 0 || name.endsWith('_total'), `${name} is there`);
    sum += values.reduce((total, [, , value]) => total + Number(value), 0);
  }
  return sum;
}

/** By a connection that need not have lived through the round. */
export async function queryOnce<T extends pg.QueryResultRow>(url: string, text: string): Promise<T[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<T>(text)).rows;
  } finally {
    await client.end();
  }
}
