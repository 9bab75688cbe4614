import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type Received, readTopics, uniqueTopic } from '../support/kafka.ts';
import { insertRows, type Row } from '../support/outbox.ts';
import { assertExactlyOnceInOrder } from '../support/sequences.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, type TestNamespace, temporalNamespace } from '../support/worker.ts';
import { disturb, type Scene } from './disturbances.ts';
import { Random } from './random.ts';
import { WRITER, write } from './writers.ts';

const SHARDS = 2;
const WORKERS = 2;
const WRITERS = 4;
const SETTLED_WITHIN = { withinMs: 180_000 };
/** Enough to fall into every partition. */
const CLOSING_KEYS = Array.from({ length: 80 }, (_, index) => `closing-${index}`);

export interface RoundResult {
  rows: number;
  faults: number;
}

/**
 * One round: writers write and faults happen for `seconds`, then everything is put right and looked at. Rejects with
 * what was lost, doubled or out of order, or with the two places that tell different stories.
 */
export async function runRound(
  seed: number,
  seconds: number,
  say: (line: string) => void,
): Promise<RoundResult> {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const topic = uniqueTopic('faults');
  await using reader = await readTopics([topic]);
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_OUTBOX_SHARDS: String(SHARDS),
  };
  const random = new Random(seed);
  const scene: Scene = { stack: testStack(), workers: [], startWorker: () => startWorker(env), random };
  try {
    for (let worker = 0; worker < WORKERS; worker += 1) scene.workers.push(await scene.startWorker());
    await scene.workers[0]!.ready();
    const until = AbortSignal.timeout(seconds * 1000);
    const writing = Array.from({ length: WRITERS }, (_, index) =>
      write({
        url: database.url,
        topic,
        name: `writer-${index}`,
        random: new Random(seed + index + 1),
        until,
      }),
    );
    const faults = await disturbUntil(scene, until, say);
    await Promise.all(writing);
    await scene.stack.start(['kafka', 'postgres', 'temporal']);
    await eventually('the last commits', () => areWritersGone(database.url));
    await insertRows(
      await database.connect(),
      CLOSING_KEYS.map((key) => ({ topic, key })),
    );
    const rows = await committedRows(database.url);
    // They are the last of every partition, so a row that was sent twice has arrived twice before them.
    await eventually(
      'the closing rows',
      () => closingRows(reader.received) === CLOSING_KEYS.length,
      SETTLED_WITHIN,
    );
    await agreement(database.url, namespace, rows.length);
    assertExactlyOnceInOrder(reader.received, rows);
    return { rows: rows.length, faults };
  } finally {
    for (const worker of scene.workers) await worker.end('SIGKILL');
  }
}

async function disturbUntil(scene: Scene, until: AbortSignal, say: (line: string) => void): Promise<number> {
  for (let faults = 0; ; faults += 1) {
    await delay(scene.random.between(1_000, 6_000), undefined, { signal: until }).catch(() => {});
    if (until.aborted) return faults;
    say(await disturb(scene));
    for (const worker of scene.workers)
      assert.ok(!worker.ended, `a worker ended by itself: ${worker.output.slice(-2_000)}`);
  }
}

const closingRows = (received: Received[]): number =>
  received.filter(({ key }) => key?.startsWith('closing-')).length;

/** A commit whose answer was lost may still be under way in the server. */
async function areWritersGone(url: string): Promise<boolean> {
  const found = await query<{ writers: number }>(
    url,
    `SELECT count(*)::int AS writers FROM pg_stat_activity WHERE application_name = '${WRITER}'`,
  );
  return found[0]?.writers === 0;
}

/** The table is the truth about what was committed, in the order of insertion. */
async function committedRows(url: string): Promise<Row[]> {
  return query(url, 'SELECT topic, partition_key AS key, payload FROM core_outboxmessage ORDER BY relay_seq');
}

/** SQL, journal and workflow status tell one story, and no fault counted as an attempt. */
async function agreement(url: string, { orchestrator }: TestNamespace, rows: number): Promise<void> {
  await eventually(
    'the table to be settled',
    async () => {
      const found = await query(
        url,
        'SELECT status, sum(attempts)::int AS attempts FROM core_outboxmessage GROUP BY status',
      );
      assert.deepEqual(found, [{ status: 'published', attempts: 0 }]);
      return true;
    },
    SETTLED_WITHIN,
  );
  const journal = await query(
    url,
    'SELECT sum(delivered_total)::int AS delivered, count(open_batch)::int AS open FROM orchestrator.outbox_journal',
  );
  assert.deepEqual(journal, [{ delivered: rows, open: 0 }]);
  await eventually(
    'the status to say the same',
    async () => {
      const statuses = await Promise.all(
        Array.from({ length: SHARDS }, (_, shard) => orchestrator.outboxRelay(shard).status()),
      );
      assert.equal(
        statuses.reduce((sum, { delivered_total }) => sum + delivered_total, 0),
        rows,
      );
      return statuses.every(
        ({ state, last_error, parked }) => state === 'idle' && last_error === null && parked === 0,
      );
    },
    SETTLED_WITHIN,
  );
}

async function query<T extends pg.QueryResultRow>(url: string, text: string): Promise<T[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<T>(text)).rows;
  } finally {
    await client.end();
  }
}
