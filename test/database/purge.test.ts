import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import type pg from 'pg';
import { recordHealth } from '../../src/database/health.ts';
import { connectForPurge, oldestKept, purgeBatch } from '../../src/database/maintenance.ts';
import { migrate } from '../../src/database/migrate.ts';
import {
  advance,
  completeCounts,
  PURGE_BATCH_ROWS,
  type Purged,
  type PurgeProgress,
  purgeStart,
} from '../../src/domain/maintenance.ts';
import { outboxDatabase } from '../support/database.ts';
import { djangoDatabase } from '../support/django.ts';
import { eventually } from '../support/eventually.ts';
import { healthTransition } from '../support/health.ts';
import { countByStatus } from '../support/outbox.ts';

const RETENTION_DAYS = 7;
const ALL_STATUSES = ['pending', 'published', 'failed', 'dead'] as const;

interface AgedRow {
  status?: string;
  createdDaysAgo?: number;
  /** Null: it was never published. */
  publishedDaysAgo?: number | null;
  payload?: unknown;
}

/** Writes rows by plain SQL; by default old published ones. Returns their ids. */
async function insertAged(client: pg.ClientBase, rows: AgedRow[]): Promise<string[]> {
  const { rows: inserted } = await client.query<{ id: string }>(
    `INSERT INTO core_outboxmessage (id, idempotency_key, topic, payload, headers, created_at, published_at, attempts,
       max_attempts, status)
     SELECT gen_random_uuid(), gen_random_uuid(), 'purge', payload, '{}', now() - created * interval '1 day',
       now() - published * interval '1 day', 0, 5, status
     FROM unnest($1::text[], $2::float8[], $3::float8[], $4::jsonb[]) AS row (status, created, published, payload)
     RETURNING id`,
    [
      rows.map(({ status = 'published' }) => status),
      rows.map(({ createdDaysAgo = 9 }) => createdDaysAgo),
      rows.map(({ publishedDaysAgo = 8 }) => publishedDaysAgo),
      rows.map(({ payload = {} }) => JSON.stringify(payload)),
    ],
  );
  return inserted.map(({ id }) => id);
}

const oldRows = (count: number, row: AgedRow = {}): AgedRow[] => Array.from({ length: count }, () => row);

async function insertRecord(client: pg.ClientBase, expiresInDays: number): Promise<void> {
  await client.query(
    `INSERT INTO core_idempotencyrecord (id, idempotency_key, operation_type, created_at, expires_at)
     VALUES (gen_random_uuid(), gen_random_uuid(), 'test', now(), now() + $1 * interval '1 day')`,
    [expiresInDays],
  );
}

async function insertLetter(client: pg.ClientBase, replayId: string, resolved: boolean): Promise<void> {
  await client.query(
    `INSERT INTO core_deadlettermessage (id, original_topic, idempotency_key, payload, headers, error_message, attempts,
       created_at, resolved, replay_id)
     VALUES (gen_random_uuid(), 'purge', 'letter', '{}', '{}', 'x', 5, now(), $2, $1)`,
    [replayId, resolved],
  );
}

/** The ids that are still there. */
async function kept(client: pg.ClientBase): Promise<Set<string>> {
  const { rows } = await client.query<{ id: string }>('SELECT id FROM core_outboxmessage');
  return new Set(rows.map(({ id }) => id));
}

/** Purges to the end, as the activity does without its pauses. Returns what went and the number of batches. */
async function purge(
  url: string,
  { dryRun = false, retentionDays = RETENTION_DAYS } = {},
): Promise<{ purged: Purged; batches: number }> {
  const client = await connectForPurge(url);
  try {
    let progress: PurgeProgress = purgeStart();
    let batches = 0;
    for (; progress.stage !== 'done'; batches += 1) {
      const { stage, from } = progress;
      progress = advance(progress, await purgeBatch(client, { stage, from }, { dryRun, retentionDays }));
    }
    return { purged: progress.purged, batches };
  } finally {
    await client.end();
  }
}

suite('what goes and what stays', () => {
  const ages = [
    ['published 8 days ago', { createdDaysAgo: 9, publishedDaysAgo: 8 }],
    ['published 6 days ago', { createdDaysAgo: 9, publishedDaysAgo: 6 }],
    ['published just now, created years ago', { createdDaysAgo: 3000, publishedDaysAgo: 0 }],
    ['without a time of publication', { createdDaysAgo: 9, publishedDaysAgo: null }],
    ['published 8 days ago, by a writer whose clock runs ahead', { createdDaysAgo: -1, publishedDaysAgo: 8 }],
  ] as const;
  for (const status of ALL_STATUSES) {
    test(`of ${status} rows ${status === 'published' ? 'the old ones go' : 'none goes'}`, async () => {
      await using database = await outboxDatabase();
      const ids = await insertAged(
        database.client,
        ages.map(([, row]) => ({ ...row, status })),
      );
      const { purged } = await purge(database.url);
      const still = await kept(database.client);
      const gone = ages.filter((_, index) => !still.has(ids[index]!)).map(([name]) => name);
      assert.deepEqual(gone, status === 'published' ? ['published 8 days ago'] : []);
      assert.deepEqual(purged, completeCounts({ published: gone.length }));
    });
  }

  test('whatever the table holds, exactly the old published rows go, and a dry run says so before', async () => {
    const days = fc
      .double({ min: -20, max: 40, noNaN: true })
      .filter((age) => Math.abs(age - RETENTION_DAYS) > 0.01);
    const row = fc.record({
      status: fc.constantFrom(...ALL_STATUSES, 'something else'),
      createdDaysAgo: days,
      publishedDaysAgo: fc.option(days),
      payload: fc.constantFrom({}, 'x'.repeat(5_000)),
    });
    await using database = await outboxDatabase();
    await fc.assert(
      fc.asyncProperty(
        fc.array(row, { maxLength: 60 }),
        fc.integer({ min: 1, max: 30 }),
        async (rows, retention) => {
          fc.pre(
            rows.every(({ createdDaysAgo, publishedDaysAgo }) =>
              [createdDaysAgo, publishedDaysAgo ?? 0].every((age) => Math.abs(age - retention) > 0.01),
            ),
          );
          await database.client.query('TRUNCATE core_outboxmessage');
          const ids = await insertAged(database.client, rows);
          const due = rows.map(
            ({ status, createdDaysAgo, publishedDaysAgo }) =>
              status === 'published' && createdDaysAgo > retention && (publishedDaysAgo ?? 0) > retention,
          );
          const options = { retentionDays: retention };
          const { purged: counted } = await purge(database.url, { ...options, dryRun: true });
          assert.equal((await kept(database.client)).size, rows.length, 'a dry run deletes nothing');
          assert.deepEqual((await purge(database.url, options)).purged, counted);
          assert.deepEqual(await kept(database.client), new Set(ids.filter((_, index) => !due[index])));
        },
      ),
      { numRuns: 60 },
    );
  });

  test('a row that an unresolved dead letter is being replayed by stays until the letter is resolved', async () => {
    await using database = await outboxDatabase();
    const [unresolved, resolved] = await insertAged(database.client, oldRows(3));
    await insertLetter(database.client, unresolved!, false);
    await insertLetter(database.client, resolved!, true);
    assert.equal((await purge(database.url, { dryRun: true })).purged.published, 2);
    assert.equal((await purge(database.url)).purged.published, 2);
    assert.deepEqual(await kept(database.client), new Set([unresolved]));
    await database.client.query('UPDATE core_deadlettermessage SET resolved = true');
    assert.equal((await purge(database.url)).purged.published, 1);
  });

  test('idempotency records go when they have expired', async () => {
    await using database = await outboxDatabase();
    for (const expiresInDays of [-30, -0.001, 0.1, 30]) await insertRecord(database.client, expiresInDays);
    assert.equal((await purge(database.url, { dryRun: true })).purged.idempotency, 2);
    assert.equal((await purge(database.url)).purged.idempotency, 2);
    const { rows } = await database.client.query(
      'SELECT count(*)::int AS live FROM core_idempotencyrecord WHERE expires_at > now()',
    );
    assert.equal(rows[0].live, 2);
  });

  test('transitions of health go after 30 days, whatever the retention of messages', async () => {
    await using database = await outboxDatabase();
    const transitions = [29.9, 30.1, 400, 0].map((days) =>
      healthTransition({ at: new Date(Date.now() - days * 86_400_000).toISOString() }),
    );
    await recordHealth(database.client, { transitions, notices: [], gates: [] });
    for (const retentionDays of [1, 100]) {
      const options = { dryRun: true, retentionDays };
      assert.equal((await purge(database.url, options)).purged.health, 2);
    }
    assert.equal((await purge(database.url)).purged.health, 2);
    const { rows } = await database.client.query(`SELECT at FROM orchestrator.health_transition ORDER BY at`);
    assert.deepEqual(
      rows.map(({ at }) => at.toISOString()),
      [transitions[0]!.at, transitions[3]!.at],
    );
  });

  test('uploads go that were cancelled 30 days ago, unless a tier may have bytes of them', async () => {
    await using database = await outboxDatabase();
    await database.client.query(
      `INSERT INTO orchestrator.upload
         (idempotency_key, filename, metadata, size, data, state, touched_tiers, updated_at)
       SELECT key, 'f', '{}', 1, '\\x00', state, touched, now() - make_interval(secs => days * 86400)
       FROM (VALUES
         ('old', 'cancelled', '{}'::text[], 30.1), ('young', 'cancelled', '{}', 29.9),
         ('touched', 'cancelled', '{s3}', 400), ('waiting', 'waiting', '{}', 400), ('failed', 'failed', '{}', 400)
       ) AS upload (key, state, touched, days)`,
    );
    assert.equal((await purge(database.url, { dryRun: true })).purged.uploads, 1);
    assert.equal((await purge(database.url)).purged.uploads, 1);
    const { rows } = await database.client.query('SELECT idempotency_key AS key FROM orchestrator.upload');
    assert.deepEqual(rows.map(({ key }) => key).sort(), ['failed', 'touched', 'waiting', 'young']);
  });

  test('the oldest row that is kept is told', async () => {
    await using database = await outboxDatabase();
    await insertAged(database.client, [...oldRows(5), { createdDaysAgo: 6, publishedDaysAgo: 5 }]);
    const oldest = await oldestKept(database.client, purgeStart().from, RETENTION_DAYS);
    const days = (Date.now() - oldest!.getTime()) / 86_400_000;
    assert.ok(days > 5.9 && days < 6.1, String(days));
  });
});

suite('batches', () => {
  test('are of a limited number of rows, however many share one created_at', async () => {
    await using database = await outboxDatabase();
    await insertAged(database.client, oldRows(PURGE_BATCH_ROWS * 3 + 7));
    const { purged, batches } = await purge(database.url);
    assert.equal(purged.published, PURGE_BATCH_ROWS * 3 + 7);
    assert.equal(batches, 4 + 3, 'and one for each later stage');
  });

  test('are of limited bytes, but never empty', async () => {
    await using database = await outboxDatabase();
    // Not compressible: stored as large as it is.
    await database.client.query(
      `INSERT INTO core_outboxmessage (id, idempotency_key, topic, payload, created_at, published_at, status)
       SELECT gen_random_uuid(), gen_random_uuid(), 'purge',
         (SELECT to_jsonb(string_agg(md5(n::text || m::text), '')) FROM generate_series(1, kib * 32) AS m),
         now() - interval '9 days', now() - interval '8 days', 'published'
       FROM (VALUES (1, 12000), (2, 3000), (3, 3000), (4, 3000), (5, 3000)) AS row (n, kib)`,
    );
    const { purged, batches } = await purge(database.url);
    assert.equal(purged.published, 5);
    assert.ok(batches >= 4 && batches <= 6, `${batches} batches`);
  });

  test('leave out rows that somebody holds, without waiting, and the next purge takes them', async () => {
    await using database = await outboxDatabase();
    const ids = await insertAged(database.client, oldRows(20));
    const holder = await database.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT FROM core_outboxmessage WHERE id = $1 FOR UPDATE', [ids[3]]);
    assert.equal((await purge(database.url)).purged.published, 19);
    assert.deepEqual(await kept(database.client), new Set([ids[3]]));
    await holder.query('ROLLBACK');
    assert.equal((await purge(database.url)).purged.published, 1);
  });

  test('get by rows that have to stay, however many lie in front', async () => {
    await using database = await outboxDatabase();
    const stay = { createdDaysAgo: 30, publishedDaysAgo: 1 };
    await insertAged(database.client, [...oldRows(PURGE_BATCH_ROWS * 2 + 10, stay)]);
    await insertAged(database.client, oldRows(10));
    const { purged, batches } = await purge(database.url);
    assert.equal(purged.published, 10);
    assert.ok(batches < 10, `${batches} batches`);
  });

  test('of two purges at once share the work', async () => {
    await using database = await outboxDatabase();
    await insertAged(database.client, oldRows(PURGE_BATCH_ROWS * 8));
    const both = await Promise.all([purge(database.url), purge(database.url)]);
    const total = both.reduce((sum, { purged }) => sum + purged.published, 0);
    assert.ok(total <= PURGE_BATCH_ROWS * 8, 'no row is counted twice');
    const { published = 0 } = await countByStatus(database.client);
    assert.equal(published, PURGE_BATCH_ROWS * 8 - total);
    await purge(database.url);
    assert.deepEqual(await countByStatus(database.client), {});
  });

  test('read little more than they delete, with many published rows behind them', async () => {
    await using database = await outboxDatabase();
    await database.client.query(
      `INSERT INTO core_outboxmessage (id, idempotency_key, topic, payload, created_at, published_at, status)
       SELECT gen_random_uuid(), gen_random_uuid(), 'purge', '{}', now() - n * interval '1 second',
         now() - n * interval '1 second', 'published'
       FROM generate_series(1, 50000) AS n`,
    );
    await insertAged(database.client, oldRows(300));
    const read = await rowsReadBy(database.client, () => purge(database.url));
    assert.ok(read > 0 && read < 3_000, `read ${read} rows to delete 300`);
  });
});

/**
 * How many rows of the outbox were fetched, by scans or by index, during `work`, which fetches at least so many as it
 * deletes. A connection tells its counts when it ends, a moment later.
 */
async function rowsReadBy(client: pg.ClientBase, work: () => Promise<{ purged: Purged }>): Promise<number> {
  const fetched = async () => {
    const { rows } = await client.query<{ fetched: string; deleted: string }>(
      `SELECT seq_tup_read + idx_tup_fetch AS fetched, n_tup_del AS deleted
       FROM pg_stat_user_tables WHERE relname = 'core_outboxmessage'`,
    );
    return { fetched: Number(rows[0]!.fetched), deleted: Number(rows[0]!.deleted) };
  };
  await client.query('SELECT pg_stat_force_next_flush()');
  const before = await fetched();
  const { purged } = await work();
  return eventually('the counts of the purge', async () => {
    const after = await fetched();
    return after.deleted - before.deleted === purged.published ? after.fetched - before.fetched : undefined;
  });
}

test("Django's tables, and a role that has rights on rows only, will do", async () => {
  await using database = await djangoDatabase();
  const { roles } = database;
  await migrate(database.urlFor(roles.migrator));
  await database.client.query(
    `GRANT USAGE ON SCHEMA orchestrator TO ${roles.neighbour};
     GRANT SELECT, UPDATE, DELETE ON orchestrator.health_transition, orchestrator.upload TO ${roles.neighbour}`,
  );
  await insertAged(database.client, [...oldRows(5), { publishedDaysAgo: 1 }, { status: 'pending' }]);
  for (const expiresInDays of [-1, 1]) await insertRecord(database.client, expiresInDays);
  assert.deepEqual(
    (await purge(database.urlFor(roles.neighbour))).purged,
    completeCounts({ published: 5, idempotency: 1 }),
  );
  assert.deepEqual(await countByStatus(database.client), { published: 1, pending: 1 });
});
