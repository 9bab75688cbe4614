import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { testKafka, uniqueTopic } from '../support/kafka.ts';
import { startConsumer } from '../support/topicConsumer.ts';

for (const compression of ['gzip', 'lz4', 'snappy', 'zstd']) {
  test(`what the broker compresses by ${compression} is read`, async () => {
    const topic = uniqueTopic(compression);
    const kafka = testKafka();
    const admin = kafka.admin();
    await admin.connect();
    const configEntries = [{ name: 'compression.type', value: compression }];
    await admin.createTopics({ topics: [{ topic, numPartitions: 1, configEntries }], waitForLeaders: false });
    await admin.disconnect();
    const producer = kafka.producer();
    await producer.connect();
    // Larger than one block or chunk, and both of what compresses well and of what does not.
    const noise = Array.from({ length: 40_000 }, (_, index) => Math.sin(index)).join();
    const values = ['short', 'again and '.repeat(40_000), noise.slice(0, 500_000)];
    await producer.send({ topic, messages: values.map((value) => ({ value })) });
    await producer.send({ topic, messages: values.map((value) => ({ value })) });
    await producer.disconnect();
    const got: string[] = [];
    await using consumer = startConsumer({
      topic,
      handle: async (records) => got.push(...records.map(({ value }) => Buffer.from(value!).toString())),
    });
    await eventually('all', () => got.length === values.length * 2, { withinMs: 20_000 });
    assert.ok(got.every((value, index) => value === values[index % values.length]));
    assert.equal(consumer.state().lastError, null);
  });
}
