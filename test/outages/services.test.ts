import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { ServiceName } from '../../stack/stack.ts';
import { emptyDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
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
      await assertNoAttemptSpent(database);
    });
  }
});

test('a minute without Kafka under load: nothing is given up, and all of it arrives once, in order', async () => {
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
  const rows = numberedRows({ topics: [topic], keys: 100, perKey: 100 });
  let written = 0;
  /** 100 rows a second, whatever Kafka does. */
  const writeFor = async (seconds: number) => {
    for (let second = 0; second < seconds; second += 1) {
      await insertRows(database.client, rows.slice(written, written + 100));
      written += 100;
      await delay(1_000);
    }
  };
  await writeFor(5);
  await eventually('the first rows', () => reader.received.length > 0);
  stack.signal('kafka', 'SIGKILL');
  try {
    await writeFor(60);
    await becomesVisible('kafka', namespace);
  } finally {
    await stack.start(['kafka']);
  }
  await writeFor(5);
  await eventually('the rows', () => reader.received.length >= written, { withinMs: 90_000 });
  await eventually('the status to be well again', () => isWell(namespace));
  assertExactlyOnceInOrder(reader.received, rows.slice(0, written));
  await assertNoAttemptSpent(database);
});

/** No row was blamed for an outage, and none was given up. */
async function assertNoAttemptSpent(database: TestDatabase): Promise<void> {
  const client = await database.connect();
  assert.deepEqual(Object.keys(await countByStatus(client)), ['published']);
  const { rows } = await client.query(
    `SELECT (SELECT count(*)::int FROM core_outboxmessage WHERE attempts > 0 OR last_error IS NOT NULL) AS blamed,
       (SELECT count(*)::int FROM core_deadlettermessage) AS dead`,
  );
  assert.deepEqual(rows, [{ blamed: 0, dead: 0 }]);
}

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
