import assert from 'node:assert/strict';
import { type AddressInfo, createServer } from 'node:net';
import { suite, test } from 'node:test';
import type pg from 'pg';
import { tryKafka } from '../../src/kafka/trial.ts';
import { freePort } from '../../stack/ports.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { openKafka, openPublisher, startRelay } from '../support/relay.ts';

type Database = Awaited<ReturnType<typeof outboxDatabase>>;

/** Kafka's gate, `seconds` from now on. */
const setGate = (client: pg.ClientBase, seconds: number) =>
  client.query(
    `INSERT INTO orchestrator.health_gate (component, open_until) VALUES ('kafka', now() + make_interval(secs => $1))`,
    [seconds],
  );

/** How often the shard was taken over. */
async function epoch(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query('SELECT epoch::int FROM orchestrator.outbox_journal WHERE shard = 0');
  return rows[0].epoch;
}

/** A relay that knows one broker, where nothing listens. */
async function relayWithoutKafka({ url, deployment }: Database) {
  const nowhere = [`127.0.0.1:${await freePort()}`];
  return startRelay({ url, deployment }, 0, {
    openPublisher: (shard) => openPublisher(deployment.id, shard, nowhere),
    tryKafka: () => tryKafka(openKafka(nowhere)),
  });
}

/** Counts the trials. */
function countingTrial() {
  let trials = 0;
  const counted = () => {
    trials += 1;
    return tryKafka(openKafka());
  };
  return { tryKafka: counted, trials: () => trials };
}

suite("a relay and Kafka's gate", () => {
  test('open, and Kafka is back: after a trial it relays', async () => {
    await using database = await outboxDatabase();
    const topic = uniqueTopic();
    await using reader = await readTopics([topic]);
    await setGate(database.client, 3_600);
    await insertRows(database.client, [{ topic, key: 'k' }]);
    const trial = countingTrial();
    await using _relay = startRelay(database, 0, trial);
    await eventually('the row', () => reader.received.length === 1);
    assert.equal(trial.trials(), 1);
  });

  test('open, and Kafka is away: it ends before it takes anything over', async () => {
    await using database = await outboxDatabase();
    await insertRows(database.client, [{ topic: uniqueTopic() }]);
    await setGate(database.client, 3_600);
    const before = await epoch(database.client);
    await using relay = await relayWithoutKafka(database);
    await assert.rejects(relay.done, { code: 'kafka_unavailable', retryable: true });
    assert.equal(await epoch(database.client), before);
    assert.deepEqual(await countByStatus(database.client), { pending: 1 });
  });

  for (const [state, prepare] of [
    ['past', (client: pg.ClientBase) => setGate(client, -1)],
    ['missing', async () => {}],
    ['unreadable', (client: pg.ClientBase) => client.query('DROP TABLE orchestrator.health_gate')],
  ] as const) {
    test(`${state}: it takes over as ever, whether Kafka is there or not`, async () => {
      await using database = await outboxDatabase();
      const topic = uniqueTopic();
      await using reader = await readTopics([topic]);
      await insertRows(database.client, [{ topic, key: 'k' }]);
      await prepare(database.client);
      const before = await epoch(database.client);
      await using away = await relayWithoutKafka(database);
      await assert.rejects(away.done, { code: 'kafka_unavailable' });
      assert.equal(await epoch(database.client), before + 1);
      const trial = countingTrial();
      await using _relay = startRelay(database, 0, trial);
      await eventually('the row', () => reader.received.length === 1);
      assert.equal(trial.trials(), 0);
    });
  }
});

suite('a trial of Kafka', () => {
  test('succeeds where Kafka answers', () => tryKafka(openKafka()));

  test('gives up on a server that takes connections and says nothing, and hangs up', async () => {
    const closed = Promise.withResolvers<void>();
    await using server = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('close', () => closed.resolve());
      socket.resume();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    await assert.rejects(tryKafka(openKafka([`127.0.0.1:${port}`])), {
      code: 'kafka_unavailable',
      message: 'no answer within 3 s',
    });
    await closed.promise;
  });
});
