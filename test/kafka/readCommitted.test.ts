import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { readTopics, testKafka, uniqueTopic } from '../support/kafka.ts';

test('the reader of these tests shows nothing of transactions that were aborted in another order than they began', async () => {
  const topic = uniqueTopic();
  await using reader = await readTopics([topic], 1);
  const [one, other] = ['one', 'other'].map((name) =>
    testKafka().producer({ transactionalId: `${topic}-${name}`, maxInFlightRequests: 1 }),
  );
  for (const producer of [one!, other!]) await producer.connect();
  const send = async (producer: typeof one, value: string) => {
    const transaction = await producer!.transaction();
    await transaction.send({ topic, messages: [{ value }] });
    return transaction;
  };
  const first = await send(one, 'aborted');
  const second = await send(other, 'aborted too');
  await second.abort();
  await first.abort();
  await (await send(one, 'committed')).commit();
  await eventually('the committed record', () => reader.received.length > 0);
  assert.deepEqual(
    reader.received.map(({ value }) => value),
    ['committed'],
  );
  for (const producer of [one!, other!]) await producer.disconnect();
});
