import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { Loss, type LossOptions } from '../support/faultProxy.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { kafkaProxy, StaleAnswers } from '../support/kafkaProxy.ts';
import { insertRows } from '../support/outbox.ts';
import { relayPersistently, startRelayThrough } from '../support/persistentRelay.ts';
import { postgresProxy } from '../support/postgresProxy.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';

/** Most of their time they wait, and they share nothing. */
const together = { concurrency: 4 };

/** A shard whose relay is led through proxies, with a first batch delivered and settled. */
async function deliveringShard(stale = new StaleAnswers('OffsetFetch')) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const topic = uniqueTopic('lost');
  // One partition, so that whatever was sent twice has arrived before the last row.
  const reader = stack.use(await readTopics([topic], 1));
  const kafka = stack.use(await kafkaProxy(stale.answer));
  const postgres = stack.use(await postgresProxy());
  const rows = numberedRows({ topics: [topic], keys: 5, perKey: 20 });
  const relay = stack.use(relayPersistently(() => startRelayThrough({ kafka, postgres }, database)));
  const write = (count: number) => insertRows(database.client, rows.splice(0, count));
  const expected = [...rows];
  await write(20);
  await eventually('the first batch', () => reader.received.length === 20);
  const isSettled = async () => {
    const found = await database.client.query(
      `SELECT FROM core_outboxmessage WHERE status <> 'published'
       UNION ALL SELECT FROM orchestrator.outbox_journal WHERE open_batch IS NOT NULL`,
    );
    return found.rowCount === 0;
  };
  await eventually('it to be settled', isSettled);

  /** Writes what is left, a last row in the end, and compares what was received with what was written. */
  const finish = async () => {
    await write(rows.length);
    await eventually('all rows to be settled', isSettled);
    const last = { topic, key: 'last', payload: 'end' };
    await insertRows(database.client, [last]);
    await eventually('the row behind them', () => reader.received.some(({ key }) => key === 'last'));
    assertExactlyOnceInOrder(reader.received, [...expected, last]);
  };
  return { kafka, postgres, relay, write, finish, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

async function losing(service: 'kafka' | 'postgres', options: LossOptions): Promise<void> {
  await using shard = await deliveringShard();
  const loss = new Loss(options);
  shard[service].arm(loss);
  // This one comes with a takeover, all others with the next batch.
  if (options.kind === 'InitProducerId') await shard.relay.restart().catch(() => {});
  await shard.write(20);
  assert.ok(await loss.within(20_000), `the ${options.direction} was lost`);
  await shard.finish();
  assert.ok(shard.relay.failures.length <= 3, `it failed once, not for ever: ${shard.relay.failures}`);
}

suite('a message that is lost between relay and Kafka loses, doubles and reorders nothing', together, () => {
  for (const kind of [
    'InitProducerId',
    'AddOffsetsToTxn',
    'TxnOffsetCommit',
    'AddPartitionsToTxn',
    'Produce',
    'EndTxn',
  ]) {
    for (const direction of ['request', 'response'] as const) {
      test(`the ${direction} of ${kind}`, () => losing('kafka', { kind, direction, effect: 'cut' }));
    }
  }
  test('the response of EndTxn, in silence', () =>
    losing('kafka', { kind: 'EndTxn', direction: 'response', effect: 'silence' }));
});

suite(
  'a commit that is lost between relay and Postgres loses, doubles and reorders nothing',
  together,
  () => {
    // An idle relay's next commits: the batch is opened, the wish to be woken withdrawn, the batch settled.
    for (const [after, name] of ['open', 'no longer waiting', 'settle'].entries()) {
      for (const direction of ['request', 'response'] as const) {
        test(`the ${direction} of COMMIT: ${name}`, () =>
          losing('postgres', { kind: 'COMMIT', direction, effect: 'cut', after }));
      }
    }
    test('the request of COMMIT, in silence: settle', () =>
      losing('postgres', { kind: 'COMMIT', direction: 'request', effect: 'silence', after: 2 }));
  },
);

test('a mark that Kafka shows too late is waited for', async () => {
  const stale = new StaleAnswers('OffsetFetch');
  await using shard = await deliveringShard(stale);
  // This takeover reads the mark of the first batch, which Kafka will show once more after it has the second.
  await shard.relay.restart();
  const lost = new Loss({ kind: 'EndTxn', direction: 'response', effect: 'cut', after: 1 });
  shard.kafka.arm(lost);
  await shard.write(20);
  assert.ok(await lost.within(20_000), 'the second batch is in Kafka and its relay does not know');
  stale.repeat(5);
  await shard.finish();
});
