// Consumes three topics until it is killed: as the service does, but backup tasks, which a workflow owns there, go into a
// table of the test's.
import { consumerGroup, handOver, type Message, type Owner, owners } from '../../src/consumers.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { ConsumedTopic } from '../../src/domain/topicMessages.ts';
import { startConsumer } from './topicConsumer.ts';

const { url, deploymentId, topics } = JSON.parse(process.env.CONSUMING!) as {
  url: string;
  deploymentId: string;
  topics: Record<ConsumedTopic, string>;
};

const intoTable: Owner<ConsumedTopic> = async (client, messages: Message<ConsumedTopic>[]) => {
  await client.query(
    `INSERT INTO owned (key, handed) SELECT DISTINCT key, 1 FROM unnest($1::text[]) AS message (key)
     ON CONFLICT (key) DO UPDATE SET handed = owned.handed + 1`,
    [messages.map(({ idempotencyKey }) => idempotencyKey)],
  );
  return [];
};

const pool = openPool(url);
for (const [kind, topic] of Object.entries(topics) as [ConsumedTopic, string][]) {
  const own = (kind === 'backup.tasks' ? intoTable : owners[kind]) as Owner<typeof kind>;
  const groupId = consumerGroup(deploymentId, topic);
  startConsumer({ topic, groupId, handle: handOver(pool, kind, own, () => {}) });
}
