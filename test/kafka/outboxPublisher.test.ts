import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { suite, test } from 'node:test';
import type { OutboxRecord } from '../../src/domain/outbox.ts';
import { partitionOf } from '../../src/kafka/outboxPublisher.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, testKafka, uniqueTopic } from '../support/kafka.ts';
import { openPublisher } from '../support/relay.ts';

const record = (topic: string, value: string, key: string | null = 'key'): OutboxRecord => ({
  seq: '1',
  id: randomUUID(),
  topic,
  key,
  value: JSON.stringify(value),
  headers: { name: 'value' },
});

const mark = (number: number) => ({ number, batchId: randomUUID() });

/** A publisher that has taken over a shard of a deployment of its own. */
async function initialised(deployment: string = randomUUID()) {
  const publisher = openPublisher(deployment, 0);
  const found = await publisher.initialise();
  return { publisher, found, [Symbol.asyncDispose]: () => publisher.close() };
}

async function partitionsOf(topics: string[]): Promise<Record<string, number>> {
  const admin = testKafka().admin();
  await admin.connect();
  const metadata = await admin.fetchTopicMetadata({ topics });
  await admin.disconnect();
  return Object.fromEntries(metadata.topics.map(({ name, partitions }) => [name, partitions.length]));
}

suite('the mark', () => {
  test('is absent before the first batch, and is the last committed batch for whoever takes over', async () => {
    const deployment = randomUUID();
    const topic = uniqueTopic();
    await using first = await initialised(deployment);
    assert.equal(first.found, undefined);
    const marks = [mark(1), mark(2), mark(3)];
    for (const each of marks) await first.publisher.publish(each, [record(topic, 'x')]);
    await using second = await initialised(deployment);
    assert.deepEqual(second.found, marks[2]);
  });

  test('is never read stale, however soon after a commit', async () => {
    const deployment = randomUUID();
    for (let number = 1; number <= 20; number += 1) {
      await using publisher = await initialised(deployment);
      assert.equal(publisher.found?.number ?? 0, number - 1);
      await publisher.publisher.publish(mark(number), []);
    }
  });
});

suite('a publisher that was fenced', () => {
  test('can commit nothing more', async () => {
    const deployment = randomUUID();
    const topic = uniqueTopic();
    await using reader = await readTopics([topic]);
    await using first = await initialised(deployment);
    await first.publisher.publish(mark(1), [record(topic, 'first')]);
    await using second = await initialised(deployment);
    await assert.rejects(first.publisher.publish(mark(2), [record(topic, 'from the past')]), {
      code: 'relay_fenced',
    });
    await second.publisher.publish(mark(2), [record(topic, 'second')]);
    await eventually('both records', () => reader.received.length === 2);
    assert.deepEqual(
      reader.received.map(({ value }) => value),
      ['"first"', '"second"'],
    );
  });

  test('does not disturb another shard', async () => {
    const deployment = randomUUID();
    const other = openPublisher(deployment, 1);
    await other.initialise();
    await using _first = await initialised(deployment);
    await using _second = await initialised(deployment);
    await other.publish(mark(1), []);
    await other.close();
  });
});

suite('topics', () => {
  test('that are missing are created with the planned number of partitions', async () => {
    const dlq = `${uniqueTopic()}.dlq`;
    const plain = uniqueTopic();
    await using publisher = await initialised();
    const topics = [dlq, plain, 'conversation.inbound'];
    await publisher.publisher.publish(
      mark(1),
      topics.map((topic) => record(topic, 'x')),
    );
    assert.deepEqual(await partitionsOf(topics), {
      [dlq]: 3,
      [plain]: 6,
      'conversation.inbound': 12,
    });
  });

  test('that exist keep their partitions, and a key goes where Java would send it', async () => {
    const topic = uniqueTopic();
    await using reader = await readTopics([topic], 5);
    await using publisher = await initialised();
    const keys = ['21', 'foobar', 'a-little-bit-long-string', 'schlüssel-日本-😀'];
    await publisher.publisher.publish(
      mark(1),
      keys.map((key) => record(topic, 'x', key)),
    );
    await eventually('all records', () => reader.received.length === keys.length);
    for (const { key, partition } of reader.received) {
      assert.equal(partition, partitionOf({ topic, key, id: '' }, 5));
    }
  });
});

test('keys fall into the partitions that Apache Kafka computes in its own test of murmur2', () => {
  // org.apache.kafka.common.utils.UtilsTest.testMurmur2, taken positive and modulo a prime.
  const hashes: Record<string, number> = {
    '21': -973932308,
    foobar: -790332482,
    'a-little-bit-long-string': -985981536,
    'a-little-bit-longer-string': -1486304829,
    lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8: -58897971,
  };
  for (const [key, hash] of Object.entries(hashes)) {
    assert.equal(partitionOf({ topic: 't', key, id: '' }, 7919), (hash & 0x7fffffff) % 7919, key);
  }
});

suite('errors', () => {
  test('a record that is known to be too large for its topic is refused before anything is sent', async () => {
    const topic = uniqueTopic();
    await using reader = await readTopics([topic]);
    await using publisher = await initialised();
    const records = [record(topic, 'small'), record(topic, 'x'.repeat(1_100_000))];
    await assert.rejects(publisher.publisher.publish(mark(1), records), {
      code: 'batch_rejected',
      message: /^record_too_large: .* takes 1048588 \(max\.message\.bytes\)/,
      topic,
    });
    await publisher.publisher.publish(mark(1), records.slice(0, 1));
    await eventually('the other one', () => reader.received.length === 1);
  });

  test('a record that Kafka finds too large for its topic is a rejection', async () => {
    const topic = uniqueTopic();
    await using _reader = await readTopics([topic]);
    await using publisher = await initialised();
    const large = { ...record(topic, 'small'), headers: { large: 'x'.repeat(1_100_000) } };
    await assert.rejects(publisher.publisher.publish(mark(1), [large]), {
      code: 'batch_rejected',
      message: /^record_too_large: MESSAGE_TOO_LARGE/,
    });
  });

  test('no broker at the address is an outage', async () => {
    const publisher = openPublisher(randomUUID(), 0, ['127.0.0.1:1']);
    await assert.rejects(publisher.initialise(), { code: 'kafka_unavailable', message: /127\.0\.0\.1:1/ });
    await publisher.close();
  });
});
