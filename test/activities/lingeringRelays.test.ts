// What becomes of a relay whose run is over, with the real activity on real services.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { pino } from 'pino';
import { LingeringRelays } from '../../src/activities/lingeringRelays.ts';
import { createOutboxActivities } from '../../src/activities/outbox.ts';
import { OutboxWakeUps } from '../../src/database/outboxWakeUps.ts';
import { OutboxTopics } from '../../src/domain/outboxTopics.ts';
import { tryKafka } from '../../src/kafka/trial.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { openKafka, openPublisher } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { temporalNamespace } from '../support/worker.ts';

const logger = pino({ level: 'silent' });

async function setUp() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const { client: temporal } = stack.use(await temporalNamespace());
  const topic = uniqueTopic();
  const { received } = stack.use(await readTopics([topic]));
  /** The relay's activities as one worker process has them. */
  const worker = () => {
    const lingering = new LingeringRelays(logger);
    const wakeUps = new OutboxWakeUps(database.url);
    stack.defer(() => wakeUps.close());
    stack.defer(() => lingering.close());
    const topics = new OutboxTopics();
    const { relayOutbox, endRelay } = createOutboxActivities({
      databaseUrl: database.url,
      deployment: database.deployment,
      openPublisher: (shard) => openPublisher(database.deployment.id, shard, undefined, { topics }),
      tryKafka: () => tryKafka(openKafka()),
      topics,
      wakeUps,
      owner: 'test',
      logger,
      temporal,
      lingering,
      startDeliveries: async () => {},
    });
    const environment = () => new MockActivityEnvironment();
    return {
      lingering,
      run: (runSeconds: number) => environment().run(relayOutbox, { shard: 0, runSeconds }),
      endRelay: () => environment().run(endRelay, 0),
    };
  };
  const rows = numberedRows({ topics: [topic], keys: 3, perKey: 200 });
  let written = 0;
  const write = async (count: number) => {
    await insertRows(database.client, rows.slice(written, written + count));
    written += count;
  };
  const settled = async () => {
    const { published = 0, pending = 0 } = await countByStatus(database.client);
    return pending === 0 && published === written;
  };
  /** Nobody is connected but the test and those who listen. */
  const hasNoRelay = async () => {
    const { rowCount } = await database.client.query(
      `SELECT FROM pg_stat_activity
       WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
         AND query NOT LIKE 'LISTEN%'`,
    );
    return rowCount === 0;
  };
  return {
    worker,
    write,
    settled,
    hasNoRelay,
    pending: async () => (await countByStatus(database.client)).pending ?? 0,
    assertReceived: async () => {
      await eventually('all rows', () => received.length >= written);
      assertExactlyOnceInOrder(received, rows.slice(0, written));
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test('rows go on being delivered between two runs, and the next run here takes over from what lingers', async () => {
  await using world = await setUp();
  const worker = world.worker();
  for (let run = 0; run < 3; run += 1) {
    await worker.run(0.3);
    await world.write(50);
    await eventually('rows without a run', world.settled);
  }
  await world.assertReceived();
});

test('a run elsewhere takes over while the relay lingers in the middle of its rows', async () => {
  await using world = await setUp();
  const [one, other] = [world.worker(), world.worker()];
  await one.run(0.1);
  const writing = (async () => {
    for (let count = 0; count < 100; count += 1) await world.write(5);
  })();
  await other.run(0.3);
  await writing;
  await eventually('all rows', world.settled);
  await world.assertReceived();
});

for (const where of ['here', 'elsewhere']) {
  test(`a relay that lingers ${where} delivers nothing any more when it was ended`, async () => {
    await using world = await setUp();
    const one = world.worker();
    const asked = where === 'here' ? one : world.worker();
    await one.run(0.1);
    await world.write(20);
    await eventually('rows without a run', world.settled);
    await asked.endRelay();
    await world.write(20);
    // They wake whoever lingers still.
    await eventually('no relay', world.hasNoRelay);
    assert.equal(await world.pending(), 20);
    await world.worker().run(0.3);
    await eventually('the rest', world.settled);
    await world.assertReceived();
  });
}

test('where the worker stops, none lingers', async () => {
  await using world = await setUp();
  const worker = world.worker();
  await worker.run(0.1);
  await worker.lingering.close();
  await worker.run(0.1);
  await eventually('no relay', world.hasNoRelay);
  await world.write(20);
  await world.worker().run(0.3);
  await eventually('the rest', world.settled);
  await world.assertReceived();
});
