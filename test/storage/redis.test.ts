// What only Redis does: how safe its copies are, and what it refuses.
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { createClient } from 'redis';
import { RedisTier } from '../../src/storage/redis.ts';
import { describeDurability } from '../../src/storage/redisDurability.ts';
import { eventually } from '../support/eventually.ts';
import { FaultProxy } from '../support/faultProxy.ts';
import { testStack } from '../support/stack.ts';
import { contentOf, factsOf, kept, never, newKey, sourceOf, strandedOf } from '../support/storage.ts';
import { ownRedis } from '../support/storageRedis.ts';

const url = testStack().env().SA01_REDIS_URL!;
const MEBIBYTE = 1024 * 1024;

async function durabilityIn(options: Record<string, string>): Promise<string> {
  await using redis = await ownRedis(options);
  const bytes = contentOf(10);
  return (await new RedisTier(redis.url).store(newKey(), sourceOf(bytes), factsOf(bytes), never)).durability;
}

test('A copy tells how it outlasts a restart, and whether it may be evicted', async () => {
  assert.match(
    await durabilityIn({ appendonly: 'yes', appendfsync: 'always' }),
    /append-only file, fsync with every write; never evicted \(no memory limit\); no expiry/,
  );
  assert.match(
    await durabilityIn({ appendonly: 'no', maxmemory: '100mb', 'maxmemory-policy': 'allkeys-lru' }),
    /held in memory only: lost when Redis stops; may be evicted when memory runs short \(allkeys-lru\)/,
  );
  assert.match(
    await durabilityIn({
      appendonly: 'no',
      save: '3600 1',
      maxmemory: '100mb',
      'maxmemory-policy': 'volatile-lru',
    }),
    /snapshots only.*never evicted \(volatile-lru\)/,
  );
});

test('What Redis does not tell is not known', () => {
  const nothing = {
    appendOnly: undefined,
    appendFsync: undefined,
    save: undefined,
    maxMemory: undefined,
    maxMemoryPolicy: undefined,
  };
  assert.match(
    describeDurability(nothing, false),
    /restart is not known; whether it may be evicted is not known/,
  );
  assert.match(describeDurability(nothing, true), /on the disk/);
});

test('Redis at its maxmemory refuses, keeps what it has, and nothing is left of the rest', async () => {
  await using redis = await ownRedis({ maxmemory: '12mb', 'maxmemory-policy': 'noeviction' });
  const tier = new RedisTier(redis.url);
  const [small, large] = [contentOf(1_000), contentOf(20 * MEBIBYTE)];
  const [first, second] = [newKey(), newKey()];
  await tier.store(first, sourceOf(small), factsOf(small), never);
  await assert.rejects(tier.store(second, sourceOf(large), factsOf(large), never), {
    code: 'storage_refused',
    message: /OOM/,
  });
  assert.ok((await kept(tier, first)).equals(small));
  assert.equal(await tier.verify(second, factsOf(large), never), undefined);
  assert.deepEqual(await strandedOf(tier, second), []);
});

test('A file above the limit is refused before it is read', async () => {
  const tier = new RedisTier(url, { maxBytes: 10 });
  const bytes = contentOf(11);
  await assert.rejects(
    tier.store(newKey(), () => assert.fail(), factsOf(bytes), never),
    {
      code: 'storage_refused',
      message: /at most 10 bytes/,
    },
  );
});

test('A wrong password is refused, and no text has it', async () => {
  await using redis = await ownRedis({ requirepass: 'right' });
  const bytes = contentOf(1);
  for (const credentials of ['', ':tell-nobody@']) {
    const tier = new RedisTier(redis.url.replace('//', `//${credentials}`));
    await assert.rejects(tier.store(newKey(), sourceOf(bytes), factsOf(bytes), never), (error: Error) => {
      assert.equal((error as Error & { code: string }).code, 'storage_refused');
      assert.doesNotMatch(`${error.message}${error.stack}${error.cause}`, /tell-nobody/);
      return true;
    });
  }
});

test('A Redis that is away, or falls silent, is an outage', async () => {
  const bytes = contentOf(3 * MEBIBYTE);
  const away = new RedisTier('redis://127.0.0.1:1/0');
  await assert.rejects(away.store(newKey(), sourceOf(bytes), factsOf(bytes), never), {
    code: 'storage_unavailable',
    message: /ECONNREFUSED/,
  });
  await using proxy = await FaultProxy.to(Number(new URL(url).port));
  const silent = new RedisTier(`redis://127.0.0.1:${proxy.port}/0`, { silenceMs: 300 });
  const stalled = proxy.stall(['response'], 1_000, 'cut');
  const key = newKey();
  await assert.rejects(silent.store(key, sourceOf(bytes), factsOf(bytes), never), {
    code: 'storage_unavailable',
  });
  await stalled;
  await silent.store(key, sourceOf(bytes), factsOf(bytes), never);
  await silent.remove(key, never);
});

test('A copy that lost or changed bytes is found, and replaced by the next store', async () => {
  const tier = new RedisTier(url);
  const client = createClient({ url });
  await client.connect();
  const damages: ((name: string) => Promise<unknown>)[] = [
    (name) => client.hDel(name, '1'),
    (name) => client.hSet(name, '0', 'something else'),
  ];
  for (const damage of damages) {
    const [key, bytes] = [newKey(), contentOf(3 * MEBIBYTE)];
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    await damage(`upload:${key}`);
    await assert.rejects(tier.verify(key, factsOf(bytes), never), { code: 'upload_corrupt' });
    await assert.rejects(kept(tier, key), { code: 'upload_corrupt' });
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    assert.ok((await kept(tier, key)).equals(bytes));
    await tier.remove(key, never);
  }
  client.destroy();
});

test('Bytes that Redis loses before they have their name are missed', async () => {
  const client = createClient({ url });
  await client.connect();
  const tier = new RedisTier(url);
  const [key, bytes] = [newKey(), contentOf(3 * MEBIBYTE)];
  async function* whileLosing() {
    yield bytes.subarray(0, 2.5 * MEBIBYTE);
    const [partial] = await eventually('a partial copy', async () => {
      const names = await client.keys(`upload-partial:*${key}*`);
      return names[0] && (await client.hExists(names[0], '1')) ? names : undefined;
    });
    await client.hDel(partial!, '0');
    yield bytes.subarray(2.5 * MEBIBYTE);
  }
  const open = async () => Readable.from(whileLosing(), { objectMode: false });
  await assert.rejects(tier.store(key, open, factsOf(bytes), never), {
    code: 'upload_corrupt',
    message: /reads back as other bytes/,
  });
  assert.equal(await tier.verify(key, factsOf(bytes), never), undefined);
  assert.deepEqual(await strandedOf(tier, key), []);
  client.destroy();
});

test('What nobody finishes expires, what is stored does not', async () => {
  const client = createClient({ url });
  await client.connect();
  const tier = new RedisTier(url);
  const [key, bytes] = [newKey(), contentOf(10)];
  let partialExpiry = 0;
  const looking = async () => {
    for await (const names of client.scanIterator({ MATCH: `upload-partial:*${key}*`, COUNT: 10_000 }))
      for (const name of names) partialExpiry = await client.ttl(name);
    return sourceOf(bytes)();
  };
  await tier.store(key, looking, factsOf(bytes), never);
  assert.ok(partialExpiry > 0);
  assert.equal(await client.ttl(`upload:${key}`), -1);
  await tier.remove(key, never);
  client.destroy();
});
