import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { ServiceName } from '../../stack/stack.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { insertRows, type Row } from '../support/outbox.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

/** How the relay's status shows it: the workflow cannot tell of Temporal's own absence. */
const visible: Partial<Record<ServiceName, RegExp>> = {
  kafka: /^kafka_unavailable: /,
  postgres: /^postgres_unavailable: |terminat|ECONN/,
};

suite('while a service is away no attempt is spent and no row is lost, and work resumes when it is back', () => {
  for (const service of ['kafka', 'postgres', 'temporal'] as const) {
    test(service, async () => {
      const stack = testStack();
      await using database = await emptyDatabase();
      await using namespace = await temporalNamespace();
      const topic = uniqueTopic();
      await using reader = await readTopics([topic]);
      await using worker = await startWorker({
        SA01_DATABASE_URL: database.url,
        TEMPORAL_NAMESPACE: namespace.name,
      });
      await worker.ready();

      const rows = numberedRows({ topics: [topic], keys: 20, perKey: 30 });
      const third = rows.length / 3;
      await insertRows(database.client, rows.slice(0, third));
      stack.signal(service, 'SIGKILL');
      try {
        if (service !== 'postgres') await insertRows(database.client, rows.slice(third, 2 * third));
        await becomesVisible(service, namespace);
        assert.equal(worker.ended, false, 'the worker lives on');
      } finally {
        await stack.start([service]);
      }

      const client = await database.connect();
      await insertRows(client, rows.slice(service === 'postgres' ? third : 2 * third));
      await eventually('all rows', () => reader.received.length >= rows.length, { withinMs: 90_000 });
      assertExactlyOnceInOrder(reader.received, rows as Row[]);
      const { rows: spent } = await client.query(
        `SELECT count(*)::int AS rows FROM core_outboxmessage WHERE attempts > 0 OR status NOT IN ('pending', 'published')`,
      );
      assert.equal(spent[0].rows, 0, 'no attempt was spent');
      await eventually('the status to be well again', async () => {
        const statuses = await Promise.all(
          [0, 1].map((shard) => namespace.orchestrator.outboxRelay(shard).status()),
        );
        return statuses.every(({ last_error, state }) => last_error === null && state === 'idle');
      });
    });
  }
});

async function becomesVisible(
  service: ServiceName,
  { orchestrator }: Awaited<ReturnType<typeof temporalNamespace>>,
): Promise<void> {
  const error = visible[service];
  if (!error) return;
  await eventually(`a relay to wait for ${service}`, async () => {
    const statuses = await Promise.all([0, 1].map((shard) => orchestrator.outboxRelay(shard).status()));
    return statuses.find(({ state, last_error }) => state === 'waiting' && error.test(last_error ?? ''));
  });
}
