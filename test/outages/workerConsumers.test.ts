// The topic is the platform's own, which every worker of the run consumes: what is sent here must be gone afterwards.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, test } from 'node:test';
import { Runtime } from '@temporalio/worker';
import { pino } from 'pino';
import { readConfig } from '../../src/config.ts';
import { measureConsumers, startConsumers } from '../../src/consumers.ts';
import { openPool } from '../../src/database/postgres.ts';
import { freePort } from '../../stack/ports.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testKafka } from '../support/kafka.ts';
import { openKafka } from '../support/relay.ts';
import { temporalNamespace } from '../support/worker.ts';

const MEMORY = 'somabrain.memory.remember';

after(async () => {
  const admin = testKafka().admin();
  await admin.connect();
  await admin.deleteTopics({ topics: [MEMORY] });
  await eventually('the topic to be gone', async () => !(await admin.listTopics()).includes(MEMORY));
  await admin.disconnect();
});

test('a worker consumes what has an owner, as a group of its deployment, and measures it', async () => {
  const bindAddress = `127.0.0.1:${await freePort()}`;
  Runtime.install({ telemetryOptions: { metrics: { prometheus: { bindAddress } } } });
  await using database = await outboxDatabase();
  const pool = openPool(database.url);
  const tenant = randomUUID();
  const { deployment } = database;
  const kafka = { ...readConfig({}).kafka, defaultPartitions: 1 };
  const config = { conversationTopic: 'conversation.inbound', kafka, taskQueue: 'test' };
  const logger = pino({ level: 'silent' });
  await using namespace = await temporalNamespace();
  const temporal = namespace.client;
  const consumers = startConsumers({ config, deployment, kafka: openKafka(), pool, temporal, logger });
  assert.deepEqual(
    consumers.map((consumer) => consumer.state().topic),
    [MEMORY, 'backup.tasks', 'upload.retry'],
  );
  await eventually('the group', () => consumers[0]!.state().state === 'consuming');
  const message = { memory_id: 'm', tenant_id: tenant, payload: {} };
  await send([JSON.stringify(message), tenant]);
  await eventually('the memory', async () => {
    const { rowCount } = await database.client.query('SELECT FROM core_pendingmemory WHERE tenant_id = $1', [
      tenant,
    ]);
    return rowCount === 1;
  });
  const admin = testKafka().admin();
  await admin.connect();
  const groupId = `somaagent-orchestrator-${deployment.id}-${MEMORY}`;
  await eventually('the offset', async () => {
    const [group] = await admin.fetchOffsets({ groupId, topics: [MEMORY] });
    return Number(group!.partitions.find(({ partition }) => partition === 0)!.offset) >= 2;
  });
  await admin.disconnect();
  await eventually('the gauges', async () => {
    measureConsumers(consumers);
    const metrics = await (await fetch(`http://${bindAddress}/metrics`)).text();
    return [
      /^consumer_lag\{[^}]*partition="0"[^}]*\} 0$/m,
      /^consumer_joined\{[^}]*topic="somabrain\.memory\.remember"[^}]*\} 1$/m,
      /^consumer_paused\{[^}]*topic="somabrain\.memory\.remember"[^}]*\} 0$/m,
      /^consumer_last_message_age_seconds\{[^}]*\} \d/m,
      /^dlq_messages\S* [1-9]/m,
    ].every((line) => line.test(metrics));
  });
  await Promise.all(consumers.map((consumer) => consumer.close()));
  await pool.end();
});

async function send(values: string[]): Promise<void> {
  const producer = testKafka().producer();
  await producer.connect();
  for (const value of values) await producer.send({ topic: MEMORY, messages: [{ partition: 0, value }] });
  await producer.disconnect();
}
