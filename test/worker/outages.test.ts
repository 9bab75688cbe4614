import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { ServiceName } from '../../stack/stack.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { insertRows } from '../support/outbox.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, type TestNamespace, temporalNamespace } from '../support/worker.ts';

/** How the relay's status shows it: the workflow cannot tell of Temporal's own absence. */
const visible: Partial<Record<ServiceName, RegExp>> = {
  kafka: /^kafka_unavailable: /,
  postgres: /^postgres_unavailable: /,
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

      // Twice, because the second outage has to be told as well.
      const rows = numberedRows({ topics: [topic], keys: 20, perKey: 30 });
      const chunk = rows.length / 6;
      let written = 0;
      const write = async () => {
        await insertRows(await database.connect(), rows.slice(written, written + chunk));
        written += chunk;
      };
      for (const _outage of ['first', 'second']) {
        await write();
        stack.signal(service, 'SIGKILL');
        try {
          if (service !== 'postgres') await write();
          await becomesVisible(service, namespace);
          assert.equal(worker.ended, false, 'the worker lives on');
        } finally {
          await stack.start([service]);
        }
        await write();
        await eventually('the rows', () => reader.received.length >= written, { withinMs: 90_000 });
        await eventually('the status to be well again', () => isWell(namespace));
      }
      assertExactlyOnceInOrder(reader.received, rows.slice(0, written));
      const { rows: spent } = await (await database.connect()).query(
        `SELECT count(*)::int AS rows FROM core_outboxmessage WHERE attempts > 0 OR status NOT IN ('pending', 'published')`,
      );
      assert.equal(spent[0].rows, 0, 'no attempt was spent');
    });
  }
});

async function relayStatuses({ orchestrator }: TestNamespace) {
  return Promise.all([0, 1].map((shard) => orchestrator.outboxRelay(shard).status()));
}

async function isWell(namespace: TestNamespace): Promise<boolean> {
  const statuses = await relayStatuses(namespace);
  return statuses.every(({ last_error, state }) => last_error === null && state === 'idle');
}

async function becomesVisible(service: ServiceName, namespace: TestNamespace): Promise<void> {
  const error = visible[service];
  if (!error) return;
  await eventually(`a relay to wait for ${service}`, async () => {
    const statuses = await relayStatuses(namespace);
    return statuses.some(({ state, last_error }) => state === 'waiting' && error.test(last_error ?? ''));
  });
}
