import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { suite, test } from 'node:test';
import kafkajs from 'kafkajs';
import type { Deployment } from '../../src/database/deployment.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { fromKafka } from '../../src/kafka/errors.ts';
import type { OutboxPublisher } from '../../src/kafka/outboxPublisher.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { openPublisher, startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';

const { KafkaJSProtocolError } = kafkajs;
const forbidden = {
  type: 'TOPIC_AUTHORIZATION_FAILED',
  code: 29,
  name: 'x',
  message: 'not authorized',
  retriable: false,
};

type Database = TestDatabase & { deployment: Deployment };

/** A real publisher whose `publish` is done by `around`. */
function publisherWith(
  database: Database,
  around: (publish: () => Promise<void>) => Promise<void>,
): () => OutboxPublisher {
  return () => {
    const publisher = openPublisher(database.deployment.id, 0);
    return {
      initialise: () => publisher.initialise(),
      // The first mark of a new shard is no batch.
      publish: (mark, records) => {
        const publish = () => publisher.publish(mark, records);
        return records.length === 0 ? publish() : around(publish);
      },
      close: () => publisher.close(),
    };
  };
}

async function openBatch(database: Database): Promise<string | null> {
  const { rows } = await database.client.query(
    'SELECT open_batch FROM orchestrator.outbox_journal WHERE shard = 0',
  );
  return rows[0].open_batch;
}

suite('a relay killed with SIGKILL', () => {
  for (const moment of ['before-send', 'after-send'] as const) {
    test(`${moment}: its successor delivers each row once`, async () => {
      await using database = await outboxDatabase();
      const topic = uniqueTopic();
      await using reader = await readTopics([topic]);
      const rows = numberedRows({ topics: [topic], keys: 5, perKey: 20 });
      await insertRows(database.client, rows);

      const child = spawn(process.execPath, ['test/support/dyingRelay.ts', moment], {
        env: {
          ...process.env,
          DYING_RELAY: JSON.stringify({ url: database.url, deployment: database.deployment }),
        },
        stdio: 'inherit',
      });
      const [, signal] = await once(child, 'exit');
      assert.equal(signal, 'SIGKILL');
      assert.notEqual(await openBatch(database), null, 'it left its batch open');

      await using _successor = startRelay(database, 0);
      await eventually('all rows', () => reader.received.length >= rows.length);
      await insertRows(database.client, [{ topic, key: 'last', payload: 'end' }]);
      await eventually('the row behind them', () => reader.received.some(({ key }) => key === 'last'));
      assertExactlyOnceInOrder(reader.received, [...rows, { topic, key: 'last', payload: 'end' }]);
    });
  }
});

suite('a relay that was replaced and does not know it', () => {
  /** A relay that falls asleep where `sleepAt` says in its first batch, and the successor that took over meanwhile. */
  async function replaced(sleepAt: 'before-send' | 'after-send') {
    const stack = new AsyncDisposableStack();
    const database = stack.use(await outboxDatabase());
    const topic = uniqueTopic();
    const reader = stack.use(await readTopics([topic]));
    const rows = numberedRows({ topics: [topic], keys: 3, perKey: 10 });
    const wake = Promise.withResolvers<void>();
    const asleep = Promise.withResolvers<void>();
    const sleep = () => {
      asleep.resolve();
      return wake.promise;
    };
    const openPublisher = publisherWith(database, async (publish) => {
      if (sleepAt === 'before-send') await sleep();
      await publish();
      if (sleepAt === 'after-send') await sleep();
    });
    const zombie = stack.use(startRelay(database, 0, { openPublisher }));
    await insertRows(database.client, rows);
    await asleep.promise;
    stack.use(startRelay(database, 0));
    return { database, topic, reader, rows, zombie, wake, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  }

  test('is refused by Kafka when it sends', async () => {
    await using scene = await replaced('before-send');
    const { database, topic, reader, rows, zombie, wake } = scene;
    await eventually('the successor to deliver', () => reader.received.length === rows.length);
    wake.resolve();
    await assert.rejects(zombie.done, {
      code: 'relay_fenced',
      message: /INVALID_PRODUCER_EPOCH|PRODUCER_FENCED/,
    });
    await insertRows(database.client, [{ topic, key: 'last', payload: 'end' }]);
    await eventually('the row behind them', () => reader.received.some(({ key }) => key === 'last'));
    assertExactlyOnceInOrder(reader.received, [...rows, { topic, key: 'last', payload: 'end' }]);
  });

  test('is refused by Postgres when it settles', async () => {
    await using scene = await replaced('after-send');
    const { database, reader, rows, zombie, wake } = scene;
    await eventually('the successor to settle', async () => (await openBatch(database)) === null);
    wake.resolve();
    await assert.rejects(zombie.done, {
      code: 'relay_fenced',
      message: /another relay has taken over shard 0/,
    });
    await eventually('the rows', () => reader.received.length >= rows.length);
    assertExactlyOnceInOrder(reader.received, rows);
  });
});

test('a relay that froze inside its transaction does not hold up its successor', async () => {
  await using database = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  const rows = numberedRows({ topics: [topic], keys: 3, perKey: 10 });
  await insertRows(database.client, rows);
  const frozen = await database.connect();
  await OutboxJournal.takeOver(frozen, 0, database.deployment, 'frozen');
  // As far as a relay gets that is stopped between marking its rows and the commit.
  await frozen.query('BEGIN');
  await frozen.query(`UPDATE core_outboxmessage SET status = 'published'`);
  await frozen.query('UPDATE orchestrator.outbox_journal SET owner = owner');
  const deliver = async () => {
    await using relay = startRelay(database, 0);
    await Promise.race([relay.done, eventually('delivery', () => reader.received.length >= rows.length)]);
  };
  // Temporal's part: what fails is tried again.
  await eventually('a successor to deliver', () => deliver().then(() => true));
  assertExactlyOnceInOrder(reader.received, rows);
});

suite('a takeover that finds a contradiction', () => {
  test('stops the shard when Kafka has more than Postgres knows of', async () => {
    await using database = await outboxDatabase();
    const topic = uniqueTopic();
    await using reader = await readTopics([topic]);
    await using relay = startRelay(database, 0);
    await insertRows(database.client, numberedRows({ topics: [topic], keys: 1, perKey: 3 }));
    await eventually('delivery', () => reader.received.length === 3);
    await relay.stop();
    // As after a restore of Postgres from an older copy.
    await database.client.query(
      `UPDATE orchestrator.outbox_journal SET settled_number = 0, settled_batch = NULL`,
    );
    await database.client.query(`UPDATE core_outboxmessage SET status = 'pending'`);
    await using successor = startRelay(database, 0);
    await assert.rejects(successor.done, {
      code: 'shard_stopped',
      message: /Postgres knows batch 0 .* Kafka knows batch 1/,
    });
    assert.equal(reader.received.length, 3, 'nothing was sent');
  });

  test('which Kafka made by refusing the mark is an outage and no message is blamed', async () => {
    await using database = await outboxDatabase();
    await insertRows(database.client, [{ topic: uniqueTopic(), key: 'k' }]);
    await using relay = startRelay(database, 0, {
      openPublisher: () => ({
        initialise: () => Promise.reject(fromKafka(new KafkaJSProtocolError(forbidden))),
        publish: () => Promise.reject(new Error('never called')),
        close: () => Promise.resolve(),
      }),
    });
    await assert.rejects(relay.done, { code: 'kafka_unavailable', message: /TOPIC_AUTHORIZATION_FAILED/ });
    assert.deepEqual(await countByStatus(database.client), { pending: 1 });
  });

  test('stops the shard when Kafka has lost its mark', async () => {
    await using database = await outboxDatabase();
    await using relay = startRelay(database, 0);
    await relay.stop();
    await database.client.query(
      `UPDATE orchestrator.outbox_journal SET settled_number = 7, settled_batch = gen_random_uuid()`,
    );
    await using successor = startRelay(database, 0);
    await assert.rejects(successor.done, { code: 'shard_stopped', message: /Kafka knows no batch at all/ });
  });
});

test('two deployments on one Kafka do not fence one another', async () => {
  await using one = await outboxDatabase();
  await using other = await outboxDatabase();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  await using _relayOfOne = startRelay(one, 0);
  await using _relayOfOther = startRelay(other, 0);
  for (let number = 0; number < 5; number += 1) {
    await insertRows(one.client, [{ topic, key: 'one', payload: number }]);
    await insertRows(other.client, [{ topic, key: 'other', payload: number }]);
  }
  await eventually('both to deliver', () => reader.received.length === 10);
});
