// What S3 is known to honour costs nobody a look before, nor a second hash; nothing is overwritten or corrupted for that.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { S3Tier } from '../../src/storage/s3.ts';
import {
  contentOf,
  factsOf,
  flipped,
  kept,
  learnt,
  never,
  newKey,
  sourceOf,
  stackS3,
  unneeded,
} from '../support/storage.ts';
import { type StorageFault, StorageProxy, type StorageRequest } from '../support/storageProxy.ts';

const s3 = stackS3();
const direct = new S3Tier(s3);

/** A tier of its own behind a proxy of its own. */
async function tierBehindProxy(t: TestContext) {
  const proxy = await StorageProxy.to(s3.endpoint);
  t.after(() => proxy[Symbol.asyncDispose]());
  return { proxy, tier: new S3Tier({ ...s3, endpoint: proxy.endpoint }) };
}

const SMALL = 700_000;
const isPut = ({ method }: StorageRequest) => method === 'PUT';

/** Stores new bytes and says how many looks and puts that took. */
async function requestsToStore(tier: S3Tier, proxy: StorageProxy, size: number) {
  const [key, bytes] = [newKey(), contentOf(size)];
  proxy.does(() => undefined);
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  assert.ok((await kept(direct, key)).equals(bytes));
  await direct.remove(key, never);
  return { looks: proxy.count('HEAD'), puts: proxy.count('PUT') };
}

/** Under a key that has a file already, another one is refused and changes nothing. */
async function assertKeeps(tier: S3Tier): Promise<void> {
  const [key, bytes] = [newKey(), contentOf(SMALL)];
  await direct.store(key, sourceOf(bytes), factsOf(bytes), never);
  const other = flipped(bytes);
  await assert.rejects(tier.store(key, sourceOf(other), factsOf(other), never), { code: 'upload_refused' });
  assert.ok((await kept(direct, key)).equals(bytes));
  await direct.remove(key, never);
}

test('One put and one look are enough where the condition is known to be honoured', async (t) => {
  const { proxy, tier } = await tierBehindProxy(t);
  await learnt(tier);
  assert.deepEqual(await requestsToStore(tier, proxy, SMALL), { looks: 1, puts: 1 });
  // A large one is looked for before: two parts.
  assert.deepEqual(await requestsToStore(tier, proxy, 9 * 1024 * 1024), { looks: 2, puts: 2 });
  await assertKeeps(tier);
});

const unknowns: [string, StorageFault][] = [
  ['refuses', { status: 403, code: 'AccessDenied' }],
  ['is away for', { status: 503, code: 'SlowDown' }],
  ['answers with a conflict to', { status: 409, code: 'ConditionalRequestConflict' }],
  ['says yes to', 'pretends'],
  ['hangs at', 'hangs'],
  ['loses every answer to', 'drops response'],
];
for (const [what, canaryFault] of unknowns) {
  test(`S3 that ${what} the trial is looked at before every put`, async (t) => {
    const { proxy, tier } = await tierBehindProxy(t);
    proxy.canaryFault = canaryFault;
    for (let files = 0; files < 3; files += 1)
      assert.deepEqual(await requestsToStore(tier, proxy, SMALL), { looks: 2, puts: 1 });
    await assertKeeps(tier);
  });
}

test('S3 that ignores the condition keeps what it has, also when the trial has failed', async (t) => {
  const { proxy, tier } = await tierBehindProxy(t);
  proxy.ignoresConditions = s3;
  for (let files = 0; files < 3; files += 1) {
    assert.deepEqual(await requestsToStore(tier, proxy, SMALL), { looks: 2, puts: 1 });
    await assertKeeps(tier);
  }
});

test('What is known of S3 is forgotten with an error, and counts for a minute', async (t) => {
  const { proxy, tier } = await tierBehindProxy(t);
  await learnt(tier);
  proxy.does((request) => (isPut(request) ? { status: 503, code: 'SlowDown' } : undefined));
  const bytes = contentOf(SMALL);
  await assert.rejects(tier.store(newKey(), sourceOf(bytes), factsOf(bytes), never), {
    code: 'storage_unavailable',
  });
  // It comes back as another one.
  proxy.does(() => undefined);
  proxy.ignoresConditions = s3;
  await assertKeeps(tier);

  proxy.ignoresConditions = undefined;
  const later = new S3Tier({ ...s3, endpoint: proxy.endpoint });
  await learnt(later);
  proxy.ignoresConditions = s3;
  const now = performance.now.bind(performance);
  t.mock.method(performance, 'now', () => now() + 60_000);
  await assertKeeps(later);
});

test('A put whose answers are lost is found to be stored', async (t) => {
  const { proxy, tier } = await tierBehindProxy(t);
  // The client's own second try finds the object of the first one in its way; then even that answer is lost.
  for (const lost of [1, 2]) {
    await learnt(tier);
    const [key, bytes] = [newKey(), contentOf(SMALL)];
    proxy.does((request) => (isPut(request) && request.count <= lost ? 'drops response' : undefined));
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    assert.equal(proxy.count('PUT'), 2);
    assert.ok((await kept(direct, key)).equals(bytes));
    await direct.remove(key, never);
  }
});

test('What is stored already is found, whatever its source says today', async (t) => {
  const { tier } = await tierBehindProxy(t);
  await learnt(tier);
  const [key, bytes] = [newKey(), contentOf(SMALL)];
  const first = await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  assert.deepEqual(await tier.store(key, unneeded, factsOf(bytes), never), first);
  await learnt(tier);
  assert.deepEqual(await tier.store(key, sourceOf(flipped(bytes)), factsOf(bytes), never), first);
  await direct.remove(key, never);
});

test('The signature covers the body itself, until S3 is known to compare the body with its checksum', async (t) => {
  const bytes = contentOf(SMALL);
  const signedHash = async ({ proxy, tier }: Awaited<ReturnType<typeof tierBehindProxy>>) => {
    const key = newKey();
    let hash: unknown;
    proxy.does(({ method, headers }) => {
      if (method === 'PUT') hash = headers['x-amz-content-sha256'];
      return undefined;
    });
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    await direct.remove(key, never);
    return hash;
  };
  const known = await tierBehindProxy(t);
  await learnt(known.tier);
  assert.equal(await signedHash(known), 'UNSIGNED-PAYLOAD');
  for (const fault of ['pretends', { status: 403, code: 'AccessDenied' }] as const) {
    const unknown = await tierBehindProxy(t);
    unknown.proxy.canaryFault = fault;
    for (let files = 0; files < 3; files += 1) assert.equal(await signedHash(unknown), factsOf(bytes).sha256);
  }
});

test('Parts are signed, unless S3 refuses one with a wrong checksum at the beginning of their upload', async (t) => {
  const bytes = contentOf(9 * 1024 * 1024);
  const { proxy, tier } = await tierBehindProxy(t);
  const faults = [undefined, 'pretends', { status: 403, code: 'AccessDenied' }, 'drops response'] as const;
  for (const fault of faults) {
    const key = newKey();
    const hashes: unknown[] = [];
    proxy.canaryFault = fault;
    proxy.does(({ method, headers }) => {
      if (method === 'PUT') hashes.push(headers['x-amz-content-sha256']);
      return undefined;
    });
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    const parts = [bytes.subarray(0, 8 * 1024 * 1024), bytes.subarray(8 * 1024 * 1024)];
    const signed = parts.map((part) => factsOf(part).sha256);
    assert.deepEqual(hashes.sort(), fault ? signed.sort() : ['UNSIGNED-PAYLOAD', 'UNSIGNED-PAYLOAD']);
    assert.ok((await kept(direct, key)).equals(bytes));
    await direct.remove(key, never);
  }
});

test('Another upload of the same key that is under way is waited out', async (t) => {
  const { proxy, tier } = await tierBehindProxy(t);
  await learnt(tier);
  const [key, bytes] = [newKey(), contentOf(SMALL)];
  const conflict = { status: 409, code: 'ConditionalRequestConflict' };
  proxy.does((request) => (isPut(request) && request.count === 1 ? conflict : undefined));
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  assert.ok((await kept(direct, key)).equals(bytes));
  await direct.remove(key, never);
});

test('Two that know come at once: one file stays, and both say which', async (t) => {
  const tiers = [await tierBehindProxy(t), await tierBehindProxy(t)].map(({ tier }) => tier);
  await Promise.all(tiers.map(learnt));
  for (const isSame of [true, false]) {
    const key = newKey();
    const files = [contentOf(SMALL), contentOf(SMALL)];
    if (isSame) files[1] = files[0]!;
    const outcomes = await Promise.allSettled(
      tiers.map((tier, n) => tier.store(key, sourceOf(files[n]!), factsOf(files[n]!), never)),
    );
    const stored = files.filter((_, n) => outcomes[n]!.status === 'fulfilled');
    assert.equal(stored.length, isSame ? 2 : 1);
    assert.ok((await kept(direct, key)).equals(stored[0]!));
    for (const outcome of outcomes)
      if (outcome.status === 'rejected') assert.equal(outcome.reason.code, 'upload_refused');
    await direct.remove(key, never);
  }
});
