import { outboxDatabase } from '../../../test/support/database.ts';
import { eventually } from '../../../test/support/eventually.ts';
import type { Delivery } from '../delivery.ts';
import { fillOutbox } from '../rows.ts';
import { newTopic } from '../topics.ts';
import type { Connect } from './connect.ts';

interface Status {
  connector: { state: string };
  tasks: { state: string; trace?: string }[];
}

/**
 * A Debezium connector: it has delivered its first row and is stopped. A stop ends its task and leaves its slot, which
 * keeps what is written from then on.
 */
export async function debeziumDelivery(connect: Connect): Promise<Delivery> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await outboxDatabase(1));
  const topic = await newTopic();
  const name = `debezium_${new URL(database.url).pathname.slice(1)}`;
  const resource = `/connectors/${name}`;
  const slotIsFree = async () => {
    const { rows } = await database.client.query(
      'SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active',
      [name],
    );
    return rows.length === 0;
  };
  const resume = async () => {
    await connect.request('PUT', `${resource}/resume`);
    await eventually('the running connector', () => isRunning(connect, resource));
  };
  const stop = async () => {
    await connect.request('PUT', `${resource}/stop`);
    await eventually('the stop', async () => (await isStopped(connect, resource)) && (await slotIsFree()));
  };
  await eventually('the connector', () =>
    connect.request('PUT', `${resource}/config`, connectorProperties(name, database.url)),
  );
  undo.defer(async () => {
    await connect.request('DELETE', resource);
    // The database cannot be dropped before.
    await eventually('the end of the connector', slotIsFree);
  });
  await eventually('the running connector', () => isRunning(connect, resource));
  // Only now is there an offset from which the connector goes on after a stop.
  await fillOutbox(database.client, topic, 1);
  await eventually('the first offset', async () => {
    const { offsets } = await connect.request<{ offsets: object[] }>('GET', `${resource}/offsets`);
    return offsets.length > 0;
  });
  await stop();
  const kept = undo.move();
  return {
    database,
    topic,
    pid: connect.pid,
    stop,
    resume,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function isStopped(connect: Connect, resource: string): Promise<boolean> {
  const { connector, tasks } = await connect.request<Status>('GET', `${resource}/status`);
  return connector.state === 'STOPPED' && tasks.length === 0;
}

async function isRunning(connect: Connect, resource: string): Promise<boolean> {
  const { tasks } = await connect.request<Status>('GET', `${resource}/status`);
  const failed = tasks.find(({ state }) => state === 'FAILED');
  if (failed) throw new Error(`the connector failed: ${failed.trace}`);
  return tasks.length === 1 && tasks[0]!.state === 'RUNNING';
}

/**
 * The outbox event router on our table. Exactly-once with a transaction for each poll (the smallest delay there is).
 * What is set beyond that is meant to help it: short polls, batches larger than the default 2,048, a queue that holds two of
 * them, record batches that are not bound to 16 KiB, and nothing captured that the router has no use for.
 */
function connectorProperties(name: string, databaseUrl: string): Record<string, string> {
  const { hostname, port, username, password, pathname } = new URL(databaseUrl);
  const columns = ['id', 'idempotency_key', 'topic', 'partition_key', 'payload', 'headers'];
  return {
    'connector.class': 'io.debezium.connector.postgresql.PostgresConnector',
    'tasks.max': '1',
    'exactly.once.support': 'required',
    'transaction.boundary': 'poll',
    'database.hostname': hostname,
    'database.port': port,
    'database.user': username,
    'database.password': password,
    'database.dbname': pathname.slice(1),
    'topic.prefix': name,
    'plugin.name': 'pgoutput',
    'slot.name': name,
    'publication.name': name,
    'publication.autocreate.mode': 'filtered',
    'table.include.list': 'public.core_outboxmessage',
    'column.include.list': columns.map((column) => `public.core_outboxmessage.${column}`).join(','),
    'snapshot.mode': 'no_data',
    'skipped.operations': 'u,d,t',
    'tombstones.on.delete': 'false',
    'poll.interval.ms': '10',
    'max.batch.size': '8192',
    'max.queue.size': '16384',
    'producer.override.batch.size': '262144',
    'producer.override.buffer.memory': '67108864',
    ...routerProperties,
  };
}

const routerProperties = {
  transforms: 'outbox',
  'transforms.outbox.type': 'io.debezium.transforms.outbox.EventRouter',
  'transforms.outbox.route.by.field': 'topic',
  // biome-ignore lint/suspicious/noTemplateCurlyInString: Debezium fills it in.
  'transforms.outbox.route.topic.replacement': '${routedByValue}',
  'transforms.outbox.table.field.event.id': 'id',
  'transforms.outbox.table.field.event.key': 'partition_key',
  'transforms.outbox.table.field.event.payload': 'payload',
  'transforms.outbox.table.expand.json.payload': 'false',
  'transforms.outbox.table.fields.additional.placement': 'idempotency_key:header,headers:header',
};
