// Whatever S3 or the way to it does, "stored" is said of what is stored.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { AbortMultipartUploadCommand, CreateMultipartUploadCommand, S3Client } from '@aws-sdk/client-s3';
import { type S3Limits, S3Tier } from '../../src/storage/s3.ts';
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
  strandedOf,
  unneeded,
} from '../support/storage.ts';
import { type StorageFault, StorageProxy, type StorageRequest } from '../support/storageProxy.ts';

const direct = new S3Tier(stackS3());
const proxy = await StorageProxy.to(stackS3().endpoint);
after(() => proxy[Symbol.asyncDispose]());
// What this S3 does with conditions stays unknown: a look comes before every put.
const unknown: StorageFault = { status: 403, code: 'AccessDenied' };
proxy.canaryFault = unknown;
const throughProxy = (limits: Partial<S3Limits> = {}) =>
  new S3Tier({ ...stackS3(), endpoint: proxy.endpoint }, limits);
const tier = throughProxy();

const SIZES = [700_000, 9 * 1024 * 1024];
const bodies = ({ method }: StorageRequest) => method === 'PUT';

interface Expected {
  fault: StorageFault;
  code: string;
  message?: RegExp;
  within?: S3Tier;
}

const always: Expected[] = [
  { fault: 'flips request', code: 'upload_corrupt', message: /BadDigest|SHA256Mismatch/ },
  { fault: 'pretends', code: 'upload_corrupt' },
  { fault: 'truncates', code: 'upload_corrupt' },
  { fault: 'drops request', code: 'storage_unavailable' },
  { fault: 'hangs', code: 'storage_unavailable', within: throughProxy({ silenceMs: 200 }) },
  { fault: { status: 503, code: 'SlowDown' }, code: 'storage_unavailable', message: /SlowDown/ },
  { fault: { status: 500, code: 'InternalError' }, code: 'storage_unavailable' },
  { fault: { status: 429, code: 'TooManyRequests' }, code: 'storage_unavailable' },
  { fault: { status: 400, code: 'RequestTimeout' }, code: 'storage_unavailable' },
  { fault: { status: 403, code: 'AccessDenied' }, code: 'storage_refused', message: /AccessDenied/ },
  { fault: { status: 400, code: 'ExpiredToken' }, code: 'storage_refused', message: /ExpiredToken/ },
  { fault: { status: 400, code: 'InvalidArgument' }, code: 'storage_refused' },
  { fault: { status: 507, code: 'XMinioStorageFull' }, code: 'storage_refused' },
  { fault: { status: 403, code: 'QuotaExceeded' }, code: 'storage_refused' },
];

for (const { fault, code, message = /./, within = tier } of always) {
  test(`S3 that ${typeof fault === 'object' ? `answers ${fault.code}` : fault}: ${code}, and nothing is visible`, async () => {
    for (const size of SIZES) {
      const [key, bytes] = [newKey(), contentOf(size)];
      proxy.does((request) => (bodies(request) ? fault : undefined));
      await assert.rejects(within.store(key, sourceOf(bytes), factsOf(bytes), never), { code, message });
      proxy.does(() => undefined);
      assert.equal(await direct.verify(key, factsOf(bytes), never), undefined);
      assert.deepEqual(await strandedOf(direct, key), []);
      // The same call finds nothing in its way later.
      await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
      await direct.remove(key, never);
    }
  });
}

test('S3 that is known to honour conditions, and does each of these: the same, and nothing is visible', async () => {
  for (const { fault, code, message = /./, within = tier } of always) {
    proxy.canaryFault = undefined;
    proxy.does(() => undefined);
    await learnt(within);
    proxy.canaryFault = unknown;
    const [key, bytes] = [newKey(), contentOf(SIZES[0]!)];
    let first: string | undefined;
    proxy.does((request) => {
      first ??= request.method;
      return bodies(request) ? fault : undefined;
    });
    await assert.rejects(within.store(key, sourceOf(bytes), factsOf(bytes), never), { code, message });
    assert.equal(first, 'PUT');
    assert.equal(await direct.verify(key, factsOf(bytes), never), undefined);
  }
});

test('S3 that is known to compare the checksums of parts, and does each of these: the same, and nothing is visible', async () => {
  proxy.canaryFault = undefined;
  const knowing = throughProxy();
  for (const { fault, code, message = /./, within = knowing } of always) {
    const [key, bytes] = [newKey(), contentOf(SIZES[1]!)];
    proxy.does((request) => (bodies(request) ? fault : undefined));
    await assert.rejects(within.store(key, sourceOf(bytes), factsOf(bytes), never), { code, message });
    proxy.does(() => undefined);
    assert.equal(await direct.verify(key, factsOf(bytes), never), undefined);
    assert.deepEqual(await strandedOf(direct, key), []);
  }
  proxy.canaryFault = unknown;
});

test('S3 whose answer is lost has the bytes, and is asked for them', async () => {
  for (const size of SIZES) {
    const [key, bytes] = [newKey(), contentOf(size)];
    proxy.does((request) => (bodies(request) && request.count === 1 ? 'drops response' : undefined));
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    assert.ok((await kept(direct, key)).equals(bytes));
    await direct.remove(key, never);
  }
});

test('S3 that loses the answer to the completion of an upload in parts is found to have it', async () => {
  const [key, bytes] = [newKey(), contentOf(SIZES[1]!)];
  proxy.does(({ method, url }) =>
    method === 'POST' && !url.includes('uploads&') && url.includes('uploadId') ? 'drops response' : undefined,
  );
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  assert.ok((await kept(direct, key)).equals(bytes));
  proxy.does(() => undefined);
  await tier.store(key, unneeded, factsOf(bytes), never);
  assert.deepEqual(await strandedOf(direct, key), []);
  await direct.remove(key, never);
});

test('S3 that completes nothing, though it says so, has stored nothing', async () => {
  const [key, bytes] = [newKey(), contentOf(SIZES[1]!)];
  proxy.does(({ method, url }) => (method === 'POST' && url.includes('uploadId') ? 'pretends' : undefined));
  await assert.rejects(tier.store(key, sourceOf(bytes), factsOf(bytes), never), { code: 'upload_corrupt' });
  await direct
    .stranded(Date.now() + 60_000, never)
    .then((found) =>
      Promise.all(found.filter(({ name }) => name.includes(key)).map((one) => one.remove(never))),
    );
});

test('uploads in parts under names of others are left alone', async () => {
  const { bucket: Bucket, ...s3 } = stackS3();
  const client = new S3Client({ ...s3, credentials: s3, region: 'us-east-1', forcePathStyle: true });
  after(() => client.destroy());
  const key = newKey();
  const begin = async (Key: string) => {
    const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
    after(() => client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })));
  };
  for (const name of [key, `${key}0`, `${key}/part`, `of-others/${key}`]) await begin(`uploads/${name}`);
  const found = await direct.stranded(Date.now() + 60_000, never);
  const ofThese = found.map(({ name }) => name).filter((name) => name.includes(key));
  assert.equal(ofThese.length, 1);
  assert.match(ofThese[0]!, new RegExp(`/uploads/${key} `));
});

test('S3 that does not see at once what it has is asked again', async () => {
  const [key, bytes] = [newKey(), contentOf(SIZES[0]!)];
  proxy.does(({ method, count }) =>
    method === 'HEAD' && count === 2 ? { status: 404, code: 'NoSuchKey' } : undefined,
  );
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  assert.equal(proxy.count('HEAD'), 3);
  await direct.remove(key, never);
});

test('S3 that tells no checksum is read back', async () => {
  for (const size of SIZES) {
    const [key, bytes] = [newKey(), contentOf(size)];
    proxy.does(({ method }) => (method === 'HEAD' ? 'tells no checksum' : undefined));
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    assert.equal(proxy.count('GET'), 1);
    await direct.remove(key, never);

    proxy.does(({ method }) =>
      method === 'HEAD' ? 'tells no checksum' : method === 'GET' ? 'flips response' : undefined,
    );
    await assert.rejects(tier.store(key, sourceOf(bytes), factsOf(bytes), never), { code: 'upload_corrupt' });
    await direct.remove(key, never);
  }
});

test('A copy that reads back as other bytes is not verified', async () => {
  const [key, bytes] = [newKey(), contentOf(SIZES[0]!)];
  await direct.store(key, sourceOf(bytes), factsOf(bytes), never);
  proxy.does(({ method }) => (method === 'GET' ? 'flips response' : undefined));
  await assert.rejects(tier.verify(key, factsOf(bytes), never), { code: 'upload_corrupt' });
  assert.ok(flipped(await kept(tier, key)).equals(bytes));
  await direct.remove(key, never);
});

test('S3 that hangs in the middle of what it gives ends as an outage', async () => {
  const hanging = throughProxy({ silenceMs: 200 });
  for (const method of ['HEAD', 'GET', 'DELETE']) {
    proxy.does((request) => (request.method === method ? 'hangs' : undefined));
    const key = newKey();
    const use = {
      HEAD: () => hanging.store(key, sourceOf(contentOf(1)), factsOf(contentOf(1)), never),
      GET: () => hanging.read(key, never),
      DELETE: () => hanging.remove(key, never),
    }[method]!;
    await assert.rejects(async () => use(), { code: 'storage_unavailable' });
  }
});

test('A signal ends a request under way at once', async () => {
  const abort = new AbortController();
  proxy.does(() => {
    abort.abort(new Error('no longer wanted'));
    return 'hangs';
  });
  const bytes = contentOf(1);
  await assert.rejects(tier.store(newKey(), sourceOf(bytes), factsOf(bytes), abort.signal), {
    message: 'no longer wanted',
  });
});

const bytes = contentOf(100);
const wrong: [string, Partial<ReturnType<typeof stackS3>>, string, RegExp][] = [
  ['a bucket that is not there', { bucket: 'nobody-made-this' }, 'storage_refused', /NoSuchBucket/],
  ['a wrong secret', { secretAccessKey: 'tell-nobody' }, 'storage_refused', /403/],
  ['an unknown access key', { accessKeyId: 'nobody' }, 'storage_refused', /40[0-9]/],
  [
    'an address where nobody listens',
    { endpoint: 'http://127.0.0.1:1' },
    'storage_unavailable',
    /ECONNREFUSED/,
  ],
];
for (const [what, settings, code, message] of wrong) {
  test(`${what}: ${code}, and no text has the secret`, async () => {
    const astray = new S3Tier({ ...stackS3(), ...settings });
    for (const size of [100, 9 * 1024 * 1024]) {
      const content = size === 100 ? bytes : contentOf(size);
      await assert.rejects(
        astray.store(newKey(), sourceOf(content), factsOf(content), never),
        (error: Error) => {
          assert.equal((error as Error & { code: string }).code, code);
          assert.match(error.message, message);
          assert.doesNotMatch(
            JSON.stringify([error.message, error.stack, error.cause]),
            /tell-nobody|somaagent-secret/,
          );
          return true;
        },
      );
    }
    await assert.rejects(astray.stranded(0, never), { code });
  });
}
