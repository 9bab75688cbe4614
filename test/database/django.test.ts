import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { type Deployment, settleDeployment } from '../../src/database/deployment.ts';
import { migrate } from '../../src/database/migrate.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { copyIn, type DjangoDatabase, djangoDatabase } from '../support/django.ts';

/** Exactly the columns that Django names, in its order. */
const COLUMNS = `"id", "idempotency_key", "topic", "partition_key", "payload", "headers", "created_at",
  "published_at", "failed_at", "attempts", "max_attempts", "next_retry_at", "last_error", "status"`;

const connectAs = async (url: string): Promise<pg.Client> => {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  return client;
};

/** `OutboxMessage(…).save()`, as psycopg sends it. */
async function djangoInsert(client: pg.ClientBase, key = 'k', idempotencyKey: string = randomUUID()) {
  const { rows } = await client.query<{ id: string }>(
    `INSERT INTO "core_outboxmessage" (${COLUMNS})
     VALUES ($1, $2, 'conversation.inbound', $3, '{"a": 1}'::jsonb, '{}'::jsonb, now(), NULL, NULL, 0, 5, NULL, NULL, 'pending')
     RETURNING "core_outboxmessage"."id"`,
    [randomUUID(), idempotencyKey, key],
  );
  return rows[0]!.id;
}

/** Rows from before: every third one pending, the youngest first on disk, two of one age. */
async function oldRows(client: pg.ClientBase): Promise<void> {
  await client.query(
    `INSERT INTO "core_outboxmessage" (${COLUMNS})
     SELECT gen_random_uuid(), 'old:' || n, 'old', 'k', to_jsonb(n), '{}', now() - make_interval(mins => n - n % 2),
       NULL, NULL, 0, 5, NULL, NULL, CASE WHEN n % 3 = 0 THEN 'pending' ELSE 'published' END
     FROM generate_series(1, 300) AS n`,
  );
}

/** Everything about the tables that a neighbour could notice, one line each. */
async function describeTables(client: pg.ClientBase, table: string): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(
    `SELECT format('%s.%s %s%s %s', table_name, column_name, data_type || coalesce(character_maximum_length::text, ''),
         CASE is_nullable WHEN 'NO' THEN ' NOT NULL' END, column_default) AS line
     FROM information_schema.columns WHERE table_schema = 'public' AND table_name LIKE $1
     UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename LIKE $1
     UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid::regclass::text LIKE $1
     UNION ALL SELECT tablename || ' owned by ' || tableowner FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE $1
     ORDER BY line`,
    [table],
  );
  return rows.map(({ line }) => line);
}

describe('A database that Django set up', () => {
  for (const role of ['superuser', 'member of the owning role'] as const) {
    test(`Migrating as ${role} adds columns and indexes and changes nothing else`, async () => {
      await using database = await djangoDatabase();
      const { client, roles } = database;
      const before = await describeTables(client, 'core_%');
      const url = role === 'superuser' ? database.url : database.urlFor(roles.migrator);
      assert.equal((await migrate(url)).length, 9);
      const migrator = await connectAs(url);
      await settleDeployment(migrator, 2);
      await migrator.end();
      const now = await describeTables(client, 'core_%');
      assert.deepEqual(
        before.filter((line) => !now.includes(line)),
        [],
      );
      assert.deepEqual(
        now.filter((line) => !before.includes(line)).map((line) => line.replace(/ ON .*/, '')),
        [
          'CREATE INDEX orchestrator_deadletter_replay',
          'CREATE INDEX orchestrator_idempotency_expires',
          'CREATE INDEX orchestrator_memory_pending',
          'CREATE INDEX orchestrator_outbox_parked',
          'CREATE INDEX orchestrator_outbox_pending_2',
          'core_deadlettermessage.original_seq bigint ',
          'core_deadlettermessage.partition_key character varying255 ',
          'core_deadlettermessage.replay_id uuid ',
          'core_idempotencyrecord.completed_at timestamp with time zone ',
          'core_idempotencyrecord.holder uuid ',
          'core_idempotencyrecord.own_expires_at timestamp with time zone ',
          'core_idempotencyrecord.payload_hash text ',
          'core_outboxmessage.relay_seq bigint NOT NULL ',
          'core_pendingmemory.dead_at timestamp with time zone ',
          'core_pendingmemory.next_attempt_at timestamp with time zone ',
          'core_pendingmemory.sync_seq bigint NOT NULL ',
        ],
      );
    });
  }

  test('Rows from before are numbered by created_at, and claimed in that order, new ones behind them', async () => {
    await using database = await djangoDatabase();
    const { client } = database;
    await oldRows(client);
    await migrate(database.url);
    const deployment = await settleDeployment(client, 1);
    const added = await djangoInsert(client);
    const { rows } = await client.query<{ id: string }>(
      `SELECT id FROM core_outboxmessage WHERE status = 'pending' AND id <> $1 ORDER BY created_at, id`,
      [added],
    );
    assert.equal(rows.length, 100);
    const journal = await OutboxJournal.takeOver(client, 0, deployment, 'test');
    const { batch } = await journal.open(0, 1_000);
    assert.deepEqual(
      batch?.records.map(({ id }) => id),
      [...rows.map(({ id }) => id), added],
    );
  });
});

describe('A neighbour that may only read and write the public tables', () => {
  let database: DjangoDatabase;
  let deployment: Deployment;
  let neighbour: pg.Client;

  before(async () => {
    database = await djangoDatabase();
    await migrate(database.url);
    deployment = await settleDeployment(database.client, 2);
    neighbour = await connectAs(database.urlFor(database.roles.neighbour));
  });
  after(async () => {
    await neighbour.end();
    await database[Symbol.asyncDispose]();
  });

  const setWaiting = async (shard: number, waiting: boolean) => {
    await database.client.query('UPDATE orchestrator.outbox_waiting SET waiting = $2 WHERE shard = $1', [
      shard,
      waiting,
    ]);
  };

  /** How many notifications `work` sends. They arrive in the order of commits, so the last one ends the count. */
  async function notifications(work: () => Promise<unknown>): Promise<number> {
    const listener = await database.connect();
    await listener.query('LISTEN somaagent_outbox');
    let count = 0;
    const ended = Promise.withResolvers<void>();
    listener.on('notification', ({ payload }) => {
      if (payload === 'end') ended.resolve();
      else count += 1;
    });
    await work();
    await database.client.query(`NOTIFY somaagent_outbox, 'end'`);
    await ended.promise;
    await listener.end();
    return count;
  }

  test('has no right to look into schema orchestrator', async () => {
    await assert.rejects(neighbour.query('SELECT FROM orchestrator.outbox_waiting'), { code: '42501' });
    await assert.rejects(neighbour.query('SELECT orchestrator.wake_outbox_relay()'), { code: '42501' });
  });

  test('inserts, changes and deletes rows with the statements that Django writes', async () => {
    const id = await djangoInsert(neighbour);
    const seen = await neighbour.query(`SELECT ${COLUMNS} FROM "core_outboxmessage" WHERE "id" = $1`, [id]);
    assert.equal(seen.rows[0].status, 'pending');
    const updated = await neighbour.query(
      `UPDATE "core_outboxmessage" SET "idempotency_key" = 'other', "topic" = 't', "partition_key" = NULL,
         "payload" = '[]'::jsonb, "headers" = '{}'::jsonb, "created_at" = now(), "published_at" = now(), "failed_at" = NULL,
         "attempts" = 1, "max_attempts" = 5, "next_retry_at" = NULL, "last_error" = NULL, "status" = 'published'
       WHERE "core_outboxmessage"."id" = $1`,
      [id],
    );
    assert.equal(updated.rowCount, 1);
    const deleted = await neighbour.query(
      'DELETE FROM "core_outboxmessage" WHERE "core_outboxmessage"."id" IN ($1)',
      [id],
    );
    assert.equal(deleted.rowCount, 1);
  });

  test('is told by the database, as before, when an idempotency key is taken or a column is missing', async () => {
    await djangoInsert(neighbour, 'k', 'taken');
    await assert.rejects(djangoInsert(neighbour, 'k', 'taken'), { code: '23505' });
    await assert.rejects(neighbour.query(`INSERT INTO core_outboxmessage (id) VALUES (gen_random_uuid())`), {
      code: '23502',
    });
  });

  test('loads rows by COPY, and they are numbered in the order of the file', async () => {
    const lines = Array.from({ length: 100 }, (_, n) => [
      randomUUID(),
      `copied:${n}`,
      't',
      'k',
      n,
      '{}',
      '2025-01-01',
      '\\N',
      '\\N',
      0,
      5,
      '\\N',
      '\\N',
      'pending',
    ]);
    const data = lines.map((line) => `${line.join('\t')}\n`).join('');
    await setWaiting(0, true);
    const woken = await notifications(() =>
      copyIn(neighbour, `COPY "core_outboxmessage" (${COLUMNS}) FROM STDIN`, data),
    );
    await setWaiting(0, false);
    assert.equal(woken, 1);
    const { rows } = await neighbour.query(
      `SELECT payload FROM core_outboxmessage WHERE idempotency_key LIKE 'copied:%' ORDER BY relay_seq`,
    );
    assert.deepEqual(
      rows.map(({ payload }) => payload),
      lines.map((_, n) => n),
    );
  });

  test('wakes the relays while any of them waits, once for each transaction', async () => {
    for (const shard of [0, 1]) {
      await setWaiting(shard, true);
      assert.equal(await notifications(() => djangoInsert(neighbour)), 1);
      const bulk = async () => {
        await neighbour.query('BEGIN');
        for (let n = 0; n < 20; n += 1) await djangoInsert(neighbour, `k${n}`);
        await neighbour.query('COMMIT');
      };
      assert.equal(await notifications(bulk), 1);
      await setWaiting(shard, false);
    }
  });

  test('sends no notification while no relay waits, and none for what it rolls back, changes or deletes', async () => {
    assert.equal(await notifications(() => djangoInsert(neighbour)), 0);
    await setWaiting(1, true);
    const others = async () => {
      await neighbour.query('BEGIN');
      await djangoInsert(neighbour);
      await neighbour.query('ROLLBACK');
      await neighbour.query(`UPDATE core_outboxmessage SET status = 'dead'`);
      await neighbour.query('DELETE FROM core_outboxmessage');
    };
    assert.equal(await notifications(others), 0);
    await setWaiting(1, false);
  });

  test('is not held up by a crash that empties the table of waiting shards', async () => {
    await database.client.query('TRUNCATE orchestrator.outbox_waiting');
    assert.equal(await notifications(() => djangoInsert(neighbour)), 0);
    const client = await database.connect();
    const journal = await OutboxJournal.takeOver(client, 1, deployment, 'test');
    await journal.setWaiting(true);
    assert.equal(await notifications(() => djangoInsert(neighbour)), 1);
  });
});
