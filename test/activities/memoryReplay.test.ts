import assert from 'node:assert/strict';
import { test } from 'node:test';
import { handOver, owners } from '../../src/consumers.ts';
import { putBack, settleReplays } from '../../src/database/deadLetterReplay.ts';
import { openPool } from '../../src/database/postgres.ts';
import { MAX_SYNC_ATTEMPTS, MEMORY_TOPIC } from '../../src/domain/memories.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { uniqueTopic } from '../support/kafka.ts';
import { countMemories, insertMemories, standInBrain, startSync } from '../support/memories.ts';
import { startRelay } from '../support/relay.ts';
import { startConsumer } from '../support/topicConsumer.ts';

const everything = { topic: undefined, ids: undefined, from: undefined, to: undefined };

test('poison memories are replayed after the cause is gone: by outbox, Kafka and the consumer, back into the queue', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await using brain = await standInBrain();
  await using _sync = startSync(database, brain.url);
  const poison = [1, 2, 3].map((number) => ({
    tenant: 'bad',
    namespace: 'ltm',
    payload: { poison: true, number },
    key: `memory:bad:${number}`,
  }));
  await insertMemories(client, [...poison, { tenant: 'good', payload: { number: 1 } }]);
  await eventually('the dead letters', async () => {
    await client.query('UPDATE core_pendingmemory SET next_attempt_at = NULL WHERE NOT synced');
    return (await countMemories(client)).dead === 3;
  });
  assert.deepEqual(await countMemories(client), {
    synced: 1,
    pending: 0,
    dead: 3,
    attempts: 3 * MAX_SYNC_ATTEMPTS,
  });

  // The topic that all tests share has memories of others: only its name is another one here.
  const topic = uniqueTopic('memories');
  await client.query(
    `UPDATE core_deadlettermessage SET original_topic = $1 WHERE original_topic = '${MEMORY_TOPIC}'`,
    [topic],
  );
  const pool = openPool(database.url);
  {
    await using _relay = startRelay(database, 0);
    await using _consumer = startConsumer({
      topic,
      handle: handOver(pool, MEMORY_TOPIC, owners[MEMORY_TOPIC]!, () => assert.fail('all are understood')),
    });
    brain.server.behave({ poison: 'taken' });
    const { replays } = await putBack(client, everything, { after: null, limit: 100 });
    assert.equal(replays.length, 3);
    await eventually('the letters to be resolved', async () => {
      const { resolved } = await settleReplays(client, replays, { by: 'test', notes: null });
      return resolved === 3;
    });
    await eventually('the memories', async () => (await countMemories(client)).synced === 4);
  }
  await pool.end();
  const stored = [...brain.shelf.stored.values()].filter(({ tenant }) => tenant === 'bad');
  assert.deepEqual(
    stored.map(({ key, namespace, value }) => [key, namespace, value.number]),
    poison.map(({ key, namespace, payload }) => [key, namespace, payload.number]),
  );
});
