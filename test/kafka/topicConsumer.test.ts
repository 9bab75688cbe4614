import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { CompressionTypes, type Message } from 'kafkajs';
import type { ConsumedRecord } from '../../src/domain/consumedRecord.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import { MAX_RECORDS } from '../../src/kafka/portions.ts';
import { eventually } from '../support/eventually.ts';
import { testKafka, uniqueTopic } from '../support/kafka.ts';
import { bootstrapServers, kafkaProxy } from '../support/kafkaProxy.ts';
import { openKafka } from '../support/relay.ts';
import { groupOffsets, startConsumer } from '../support/topicConsumer.ts';

async function send(topic: string, messages: Message[], transactionalId?: string): Promise<void> {
  const producer = testKafka().producer(transactionalId ? { transactionalId, maxInFlightRequests: 1 } : {});
  await producer.connect();
  try {
    if (!transactionalId) return void (await producer.send({ topic, messages }));
    const transaction = await producer.transaction();
    await transaction.send({ topic, messages });
    await transaction.commit();
  } finally {
    await producer.disconnect();
  }
}

const numbered = (count: number, partition = 0): Message[] =>
  Array.from({ length: count }, (_, number) => ({ partition, value: String(number) }));
const valuesOf = (records: ConsumedRecord[]) => records.map(({ value }) => Buffer.from(value!).toString());
const expected = (count: number) => Array.from({ length: count }, (_, number) => String(number));
const away = () => new OrchestratorError('postgres_unavailable', 'away');
/** The topic is the consumer's to make. */
const joined = (consumer: { state(): { state: string } }) =>
  eventually('the group', () => consumer.state().state === 'consuming');

async function membersOf(topic: string): Promise<string[]> {
  const admin = testKafka().admin();
  await admin.connect();
  const { groups } = await admin.describeGroups([`group-${topic}`]);
  await admin.disconnect();
  return groups[0]!.members.map(({ memberId }) => memberId);
}

suite('a consumer', { concurrency: true }, () => {
  test('a missing topic is made as planned; portions are in order, and what was handed over is committed exactly', async () => {
    const topic = uniqueTopic();
    const portions: ConsumedRecord[][] = [];
    await using consumer = startConsumer({ topic, handle: async (records) => portions.push(records) });
    await joined(consumer);
    const count = MAX_RECORDS * 2 + 10;
    await send(topic, [...numbered(count, 0), ...numbered(5, 2)]);
    await eventually('no lag', async () => (await groupOffsets(topic)).lag === 0);
    assert.deepEqual((await groupOffsets(topic)).committed, [String(count), '-1', '5']);
    for (const [partition, size] of [
      [0, count],
      [2, 5],
    ] as const) {
      const of = portions.filter(([first]) => first!.partition === partition);
      assert.deepEqual(valuesOf(of.flat()), expected(size));
      assert.ok(of.every((portion) => portion.length <= MAX_RECORDS));
    }
    const { partitions, lastMessageAt, lastError } = consumer.state();
    assert.ok(partitions.every(({ lag, paused }) => lag === 0 && !paused));
    assert.equal(lastMessageAt, Math.max(...portions.flat().map(({ timestamp }) => timestamp)));
    assert.equal(lastError, null);
  });

  test('what is too much for its owner comes in smaller portions', async () => {
    const topic = uniqueTopic();
    const got: string[] = [];
    const sizes: number[] = [];
    const handle = async (records: ConsumedRecord[]) => {
      sizes.push(records.length);
      if (records.length > 200) throw away();
      got.push(...valuesOf(records));
    };
    await using consumer = startConsumer({ topic, handle });
    await joined(consumer);
    await send(topic, numbered(300));
    await eventually('all of them', () => got.length === 300);
    assert.deepEqual(got, expected(300));
    assert.deepEqual(sizes, [300, 250, 125, 175]);
  });

  test('a portion of large values is bounded by bytes', async () => {
    const topic = uniqueTopic();
    const sizes: number[] = [];
    const handle = async (records: ConsumedRecord[]) => sizes.push(records.length);
    await using consumer = startConsumer({ topic, handle });
    await joined(consumer);
    const messages = Array.from({ length: 20 }, () => ({ partition: 0, value: 'x'.repeat(1_000_000) }));
    const producer = testKafka().producer();
    await producer.connect();
    await producer.send({ topic, messages, compression: CompressionTypes.GZIP });
    await producer.disconnect();
    await eventually('all of them', () => sizes.reduce((sum, size) => sum + size, 0) === 20);
    assert.deepEqual(sizes, [8, 8, 4]);
  });

  test('large values that were sent one by one come several at a time', async () => {
    const topic = uniqueTopic();
    const sizes: number[] = [];
    const sent = Promise.withResolvers<void>();
    const handle = async (records: ConsumedRecord[]) => {
      sizes.push(records.length);
      await sent.promise;
    };
    await using consumer = startConsumer({ topic, handle });
    await joined(consumer);
    await send(topic, numbered(1));
    await eventually('the first', () => sizes.length === 1);
    for (let number = 0; number < 4; number += 1)
      await send(topic, [{ partition: 0, value: 'x'.repeat(900_000) }]);
    sent.resolve();
    await eventually('all of them', () => sizes.reduce((sum, size) => sum + size, 0) === 5);
    assert.ok(Math.max(...sizes) > 1, String(sizes));
  });

  test('key, value, headers and place arrive as bytes; tombstones arrive as well', async () => {
    const topic = uniqueTopic();
    const got: ConsumedRecord[] = [];
    await using consumer = startConsumer({ topic, handle: async (records) => got.push(...records) });
    await joined(consumer);
    const raw = Buffer.from([0xff, 0x00]);
    await send(topic, [
      {
        partition: 1,
        key: raw,
        value: raw,
        headers: { one: 'a', twice: ['b', raw] },
        timestamp: '1700000000000',
      },
      { partition: 1, value: null },
      { partition: 1, value: '' },
    ]);
    await eventually('all', () => got.length === 3);
    assert.deepEqual(got[0], {
      topic,
      partition: 1,
      offset: '0',
      timestamp: 1_700_000_000_000,
      key: raw,
      value: raw,
      headers: { one: Buffer.from('a'), twice: raw },
    });
    assert.deepEqual([got[1]!.value, got[1]!.key], [null, null]);
    assert.equal(got[2]!.value!.length, 0);
  });

  test('behind transactions no lag is left: their markers are passed, and what was aborted is not shown', async () => {
    const topic = uniqueTopic();
    const got: string[] = [];
    await using consumer = startConsumer({
      topic,
      handle: async (records) => got.push(...valuesOf(records)),
    });
    await joined(consumer);
    await send(topic, numbered(3), `${topic}-one`);
    await eventually('no lag', async () => (await groupOffsets(topic)).committed[0] === '4');
    const producer = testKafka().producer({ transactionalId: `${topic}-other`, maxInFlightRequests: 1 });
    await producer.connect();
    const transaction = await producer.transaction();
    await transaction.send({ topic, messages: numbered(3) });
    await transaction.abort();
    await producer.disconnect();
    await eventually('no lag', async () => (await groupOffsets(topic)).committed[0] === '8');
    assert.deepEqual(got, expected(3));
    assert.ok(consumer.state().partitions.every(({ lag }) => lag === 0));
  });

  test('while the owner is away its partition pauses, the member stays, and nothing is skipped', async () => {
    const topic = uniqueTopic();
    const got: string[] = [];
    const stuck: string[] = [];
    let isAway = true;
    await using consumer = startConsumer({
      topic,
      async handle(records) {
        if (isAway && records[0]!.partition === 0) {
          stuck.push(valuesOf(records)[0]!);
          throw away();
        }
        got.push(...records.map(({ partition, value }) => `${partition}:${Buffer.from(value!)}`));
      },
    });
    await joined(consumer);
    const members = await membersOf(topic);
    await send(topic, [...numbered(20, 0), ...numbered(20, 1)]);
    await eventually('three tries', () => stuck.length >= 3);
    assert.deepEqual(new Set(stuck), new Set(['0']));
    assert.equal(got.length, 20, 'the other partition goes on');
    const { state, partitions, lastError } = consumer.state();
    assert.deepEqual([state, lastError], ['paused', 'postgres_unavailable: away']);
    assert.deepEqual(
      partitions.find(({ partition }) => partition === 0),
      { partition: 0, lag: 20, paused: true },
    );
    assert.equal((await groupOffsets(topic)).committed[0], '-1');
    isAway = false;
    await eventually('all', () => got.length === 40);
    await eventually('no lag', async () => (await groupOffsets(topic)).lag === 0);
    assert.deepEqual(
      got.filter((value) => value.startsWith('0:')),
      expected(20).map((value) => `0:${value}`),
    );
    assert.deepEqual(await membersOf(topic), members);
    assert.equal(consumer.state().state, 'consuming');
  });

  test('an owner that takes longer than a session is waited for, and the member stays', async () => {
    const topic = uniqueTopic();
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    let handed = 0;
    await using consumer = startConsumer({
      topic,
      async handle() {
        handed += 1;
        await released;
      },
    });
    await joined(consumer);
    const members = await membersOf(topic);
    await send(topic, numbered(3));
    await eventually('the owner', () => handed === 1);
    // A member that gave no sign for ten seconds would be expelled.
    await delay(12_000);
    const then = await membersOf(topic);
    release();
    assert.deepEqual(then, members);
    await eventually('no lag', async () => (await groupOffsets(topic)).lag === 0);
    assert.deepEqual(await membersOf(topic), members);
  });

  test('a close finishes what is under way, commits it and leaves; the next one goes on behind it', async () => {
    const topic = uniqueTopic();
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    const got: string[] = [];
    const first = startConsumer({
      topic,
      async handle(records) {
        got.push(...valuesOf(records));
        await released;
      },
    });
    await joined(first);
    await send(topic, numbered(MAX_RECORDS + 7));
    await eventually('the first portion', () => got.length === MAX_RECORDS);
    const closed = first.close();
    release();
    await closed;
    assert.equal((await groupOffsets(topic)).committed[0], String(MAX_RECORDS));
    assert.equal(first.state().state, 'waiting');
    await using _second = startConsumer({ topic, handle: async (records) => got.push(...valuesOf(records)) });
    await eventually('all', () => got.length === MAX_RECORDS + 7, { withinMs: 10_000 });
    assert.deepEqual(got, expected(MAX_RECORDS + 7));
  });

  test('members that come and go lose nothing', async () => {
    const topic = uniqueTopic();
    const seen = new Set<string>();
    const handle = async (records: ConsumedRecord[]) => {
      for (const { partition, value } of records) seen.add(`${partition}:${Buffer.from(value!)}`);
    };
    await using first = startConsumer({ topic, handle });
    await joined(first);
    const burst = (from: number) =>
      send(
        topic,
        [0, 1, 2].flatMap((partition) => numbered(from + 300, partition).slice(from)),
      );
    await burst(0);
    const second = startConsumer({ topic, handle });
    await burst(300);
    await joined(second);
    await burst(600);
    await second.close();
    await burst(900);
    await eventually('all', () => seen.size === 3_600);
    await eventually('no lag', async () => (await groupOffsets(topic)).lag === 0);
  });

  test('a topic that may not be made is waited for; an owner with a mistake of its own is asked again', async () => {
    const topic = uniqueTopic();
    let asked = 0;
    await using consumer = startConsumer({
      topic,
      partitions: { conversationTopic: 'conversation.inbound', defaultPartitions: 3, createTopics: false },
      async handle() {
        asked += 1;
        if (asked === 1) throw new TypeError('a mistake');
      },
    });
    await eventually('the reason', () => /does not exist/.test(consumer.state().lastError ?? ''));
    assert.equal(consumer.state().state, 'waiting');
    const admin = testKafka().admin();
    await admin.connect();
    assert.ok(!(await admin.listTopics()).includes(topic));
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }], waitForLeaders: false });
    await admin.disconnect();
    await joined(consumer);
    await send(topic, numbered(1));
    await eventually('a second time', () => asked === 2);
    await eventually('no lag', async () => (await groupOffsets(topic)).lag === 0);
  });

  test('a close does not wait for a broker that has fallen silent', async () => {
    await using proxy = await kafkaProxy();
    const topic = uniqueTopic();
    const consumer = startConsumer({
      topic,
      kafka: openKafka(bootstrapServers(proxy)),
      handle: async () => {},
    });
    await joined(consumer);
    // kafkajs waits for its own timeouts, the longest are of ten seconds.
    const silence = proxy.stall(['request', 'response'], 12_000).then(() => 'the silence is over');
    assert.equal(await Promise.race([consumer.close().then(() => 'closed'), silence]), 'closed');
  });

  test('a close while Kafka is away, or before the group was joined, ends', async () => {
    const nobody = startConsumer({
      topic: uniqueTopic(),
      kafka: openKafka(['127.0.0.1:1']),
      handle: async () => {},
    });
    await eventually('the reason', () => nobody.state().lastError?.startsWith('kafka_unavailable'));
    await nobody.close();
    const early = startConsumer({ topic: uniqueTopic(), handle: async () => {} });
    await early.close();
    assert.equal(early.state().state, 'waiting');
  });
});
