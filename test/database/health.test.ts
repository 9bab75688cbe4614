import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { recordHealth } from '../../src/database/health.ts';
import { connect, disconnect, openPool, withClient } from '../../src/database/postgres.ts';
import type { HealthRecord } from '../../src/domain/health.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { Loss } from '../support/faultProxy.ts';
import { healthNotice, healthTransition, kafkaOutage } from '../support/health.ts';
import { readTopics } from '../support/kafka.ts';
import { postgresProxy, through } from '../support/postgresProxy.ts';
import { startRelay } from '../support/relay.ts';

/** All that a record leaves, with the versions of the rows: a row that was written again has another one. */
async function written({ client }: TestDatabase) {
  const { rows: transitions } = await client.query(
    'SELECT *, xmin FROM orchestrator.health_transition ORDER BY id',
  );
  const { rows: gates } = await client.query(
    'SELECT *, xmin FROM orchestrator.health_gate ORDER BY component',
  );
  const { rows: messages } = await client.query('SELECT *, xmin FROM core_outboxmessage ORDER BY relay_seq');
  return { transitions, gates, messages };
}

const nothing = { transitions: [], gates: [], messages: [] };

suite('a record of the health cycle', () => {
  test('becomes transitions, gates and messages of the outbox', async () => {
    await using database = await outboxDatabase();
    await recordHealth(database.client, kafkaOutage());
    const { transitions, gates, messages } = await written(database);
    const [{ id: _id, xmin: _xmin, ...outage }, cascade] = transitions;
    assert.deepEqual(outage, {
      key: `kafka:failure:${Date.parse('2026-11-23T08:00:00.123Z')}`,
      component: 'kafka',
      event: 'failure',
      from_level: 'none',
      to_level: 'critical',
      at: new Date('2026-11-23T08:00:00.123Z'),
      suppressed_by: [],
      error: 'no broker answers',
    });
    assert.deepEqual([cascade.suppressed_by, cascade.error], [['kafka'], null]);
    assert.deepEqual(
      gates.map(({ component, open_until }) => [component, open_until]),
      [
        ['database', null],
        ['kafka', new Date('2100-01-01T00:00:00Z')],
      ],
    );
    const { idempotencyKey, payload } = healthNotice();
    const [{ topic, partition_key, idempotency_key, headers, payload: stored, status }] = messages;
    assert.deepEqual(
      { topic, partition_key, idempotency_key, headers, stored, status },
      {
        topic: 'degradation.events',
        partition_key: 'kafka',
        idempotency_key: idempotencyKey,
        headers: { event_type: 'degradation', severity: 'critical' },
        stored: payload,
        status: 'pending',
      },
    );
  });

  test('that is written again changes nothing, not even while the first one is under way', async () => {
    await using database = await outboxDatabase();
    await Promise.all([
      recordHealth(database.client, kafkaOutage()),
      recordHealth(await database.connect(), kafkaOutage()),
    ]);
    const first = await written(database);
    assert.deepEqual([first.transitions.length, first.gates.length, first.messages.length], [2, 2, 1]);
    await recordHealth(database.client, kafkaOutage());
    assert.deepEqual(await written(database), first);
  });

  test('that is empty leaves nothing', async () => {
    await using database = await outboxDatabase();
    await recordHealth(database.client, { transitions: [], notices: [], gates: [] });
    assert.deepEqual(await written(database), nothing);
  });

  test('that waited for Postgres may hold several gates of a component: the last one counts', async () => {
    await using database = await outboxDatabase();
    const gates = [...kafkaOutage().gates, { component: 'kafka', openUntil: null }] as HealthRecord['gates'];
    await recordHealth(database.client, { transitions: [], notices: [], gates });
    const { gates: stored } = await written(database);
    assert.deepEqual(
      stored.map(({ open_until }) => open_until),
      [null, null],
    );
  });

  test('takes whatever text a broken service has answered', async () => {
    await using database = await outboxDatabase();
    const error = 'a NUL \0, half a pair \ud800, a quote \', {"a":1}';
    const notice = healthNotice();
    notice.payload.details.error = error;
    await recordHealth(database.client, {
      transitions: [healthTransition({ error })],
      notices: [notice],
      gates: [],
    });
    const { transitions, messages } = await written(database);
    const stored = 'a NUL \ufffd, half a pair \ufffd, a quote \', {"a":1}';
    assert.deepEqual([transitions[0].error, messages[0].payload.details.error], [stored, stored]);
  });
});

suite('all of a record or nothing', () => {
  test('a notice that the outbox refuses takes transitions and gates with it', async () => {
    await using database = await outboxDatabase();
    const record = kafkaOutage();
    record.notices.push({ ...healthNotice('database'), idempotencyKey: 'x'.repeat(256) });
    await assert.rejects(recordHealth(database.client, record), { code: 'invalid_message' });
    assert.deepEqual(await written(database), nothing);
    await recordHealth(database.client, kafkaOutage());
    assert.equal((await written(database)).transitions.length, 2, 'the connection is usable');
  });

  test('a connection that is killed between two of its statements leaves nothing', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    // In the way of the notice, the last of them.
    const blocker = await database.connect();
    await blocker.query('BEGIN; LOCK TABLE core_outboxmessage');
    const pool = openPool(database.url);
    try {
      const writing = withClient(pool, (writer) => recordHealth(writer, kafkaOutage()));
      const failed = assert.rejects(writing);
      await eventually('the writer to wait with half of it written', async () => {
        const { rowCount } = await client.query(
          `SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
           WHERE datname = current_database() AND NOT granted AND query LIKE '%core_outboxmessage%' AND xact_start IS NOT NULL`,
        );
        return rowCount === 1;
      });
      await failed;
      await blocker.query('ROLLBACK');
      assert.deepEqual(await written(database), nothing);
      await withClient(pool, (writer) => recordHealth(writer, kafkaOutage()));
      assert.equal((await written(database)).messages.length, 1);
    } finally {
      await pool.end();
    }
  });

  for (const direction of ['request', 'response'] as const) {
    test(`where the ${direction} of the commit is lost, the second try makes it one record`, async () => {
      await using database = await outboxDatabase();
      await using proxy = await postgresProxy();
      const url = through(proxy, database.url);
      proxy.arm(new Loss({ kind: 'COMMIT', direction, effect: 'cut' }));
      const first = await connect(url);
      await assert.rejects(recordHealth(first, kafkaOutage()));
      await disconnect(first);
      const after = await eventually('the server to end the transaction', async () => {
        const { rowCount } = await database.client.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()`,
        );
        return rowCount === 0 ? await written(database) : undefined;
      });
      assert.equal(after.messages.length, direction === 'response' ? 1 : 0);
      assert.equal(after.transitions.length, direction === 'response' ? 2 : 0);
      const second = await connect(url);
      await recordHealth(second, kafkaOutage());
      await disconnect(second);
      const { transitions, messages } = await written(database);
      assert.deepEqual([transitions.length, messages.length], [2, 1]);
    });
  }
});

test('its notices arrive once, in their order, with the key and the headers of the platform', async () => {
  await using database = await outboxDatabase();
  await using reader = await readTopics(['degradation.events']);
  // Others may use the topic as well: these are told apart by their times.
  const times = ['2031-01-01T00:00:00.001Z', '2031-01-01T00:00:00.002Z', '2031-01-01T00:00:00.003Z'];
  const notices = times.map((at) => healthNotice('redis', at));
  for (let tries = 0; tries < 2; tries += 1)
    await recordHealth(database.client, { transitions: [], notices, gates: [] });
  await using _relay = startRelay(database, 0);
  const { id } = (await database.client.query('SELECT id FROM core_outboxmessage ORDER BY relay_seq LIMIT 1'))
    .rows[0];
  const { rows } = await database.client.query('SELECT id FROM core_outboxmessage');
  const ours = new Set(rows.map((row) => row.id));
  const arrived = () => reader.received.filter(({ headers }) => ours.has(headers.message_id));
  await eventually('all of them', () => arrived().length === times.length);
  assert.deepEqual(
    arrived().map(({ value }) => JSON.parse(value).timestamp),
    times,
  );
  const [first] = arrived();
  assert.equal(first!.key, 'redis');
  assert.deepEqual(
    [first!.headers.event_type, first!.headers.severity, first!.headers.message_id],
    ['degradation', 'critical', id],
  );
});
