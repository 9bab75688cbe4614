import assert from 'node:assert/strict';
import { test } from 'node:test';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, testKafka, uniqueTopic } from '../support/kafka.ts';
import { insertRows } from '../support/outbox.ts';
import { startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';

/** A topic whose own limit is lower than what the relay could know of. */
async function smallTopic(maxMessageBytes: number): Promise<string> {
  const topic = uniqueTopic('small');
  const admin = testKafka().admin();
  await admin.connect();
  await admin.createTopics({
    topics: [
      {
        topic,
        numPartitions: 2,
        configEntries: [{ name: 'max.message.bytes', value: String(maxMessageBytes) }],
      },
    ],
    waitForLeaders: true,
  });
  await admin.disconnect();
  return topic;
}

test('a batch that Kafka rejects is narrowed down: the culprit is parked, all others arrive once and in order', async () => {
  await using database = await outboxDatabase();
  const small = await smallTopic(20_000);
  const normal = uniqueTopic();
  await using reader = await readTopics([small, normal]);
  const rows = numberedRows({ topics: [small, normal], keys: 10, perKey: 20 });
  const culprit = { topic: small, key: 'culprit', payload: { text: 'x'.repeat(50_000) } };
  const behind = { topic: small, key: 'culprit', payload: { number: 'behind' } };
  const [culpritId, behindId] = await (async () => {
    await insertRows(database.client, rows.slice(0, 150));
    const [first] = await insertRows(database.client, [culprit]);
    await insertRows(database.client, rows.slice(150));
    const [second] = await insertRows(database.client, [behind]);
    return [first, second];
  })();

  await using _relay = startRelay(database, 0);
  await eventually('all others', () => reader.received.length >= rows.length);
  assertExactlyOnceInOrder(reader.received, rows);
  const statusOf = async (id: string | undefined) => {
    const { rows: found } = await database.client.query('SELECT * FROM core_outboxmessage WHERE id = $1', [
      id,
    ]);
    return found[0];
  };
  const parked = await eventually('the culprit to be parked', async () => {
    const row = await statusOf(culpritId);
    return row.status === 'failed' && row;
  });
  assert.match(parked.last_error, /^record_too_large: MESSAGE_TOO_LARGE/);
  assert.ok(parked.attempts >= 1 && parked.next_retry_at !== null);
  assert.equal((await statusOf(behindId)).status, 'pending', 'the row behind it waits');

  await database.client.query(
    `UPDATE core_outboxmessage SET payload = '{"number": "mended"}', next_retry_at = now() WHERE id = $1`,
    [culpritId],
  );
  await eventually('both rows of the key', () => reader.received.length === rows.length + 2);
  assert.deepEqual(
    reader.received.filter(({ key }) => key === 'culprit').map(({ value }) => JSON.parse(value).number),
    ['mended', 'behind'],
  );
});
