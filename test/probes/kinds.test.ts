// Every kind of probe against the real service, against nothing, and against something that never answers.
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';
import { createClient } from 'redis';
import type { ProbeTarget } from '../../src/probes/target.ts';
import { freePort } from '../../stack/ports.ts';
import { SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';
import { eventually } from '../support/eventually.ts';
import { silentListener } from '../support/listeners.ts';
import { probeTarget, targetsAt } from '../support/probes.ts';
import { testStack } from '../support/stack.ts';

const env = testStack().env();
const s3: Extract<ProbeTarget, { kind: 's3' }> = {
  kind: 's3',
  endpoint: env.SA01_S3_ENDPOINT!,
  bucket: env.SA01_S3_BUCKET!,
  accessKeyId: env.AWS_ACCESS_KEY_ID!,
  secretAccessKey: env.AWS_SECRET_ACCESS_KEY!,
};

test('what answers and does its work is up', async (t) => {
  await using brain = new SomaBrainStandIn();
  await brain.listen();
  const root = await mkdtemp(path.join(tmpdir(), 'probe-'));
  const targets: ProbeTarget[] = [
    { kind: 'postgres', url: env.SA01_DATABASE_URL! },
    { kind: 'kafka' },
    { kind: 'redis', url: env.SA01_REDIS_URL! },
    { kind: 'temporal' },
    { kind: 'somabrain', url: brain.url },
    { kind: 'http', url: `${brain.url}/health` },
    s3,
    { kind: 'filesystem', root },
    { kind: 'redisStore', url: env.SA01_REDIS_URL! },
  ];
  for (const target of targets) {
    await t.test(target.kind, async () => {
      const { outcome, seconds, ...rest } = await probeTarget(target);
      assert.deepEqual({ outcome, ...rest }, { outcome: 'up' });
      assert.ok(seconds > 0);
    });
  }
  await t.test('and the canaries leave nothing behind', async () => {
    assert.deepEqual(await readdir(root), []);
    const client = new S3Client({ ...s3, credentials: s3, region: 'us-east-1', forcePathStyle: true });
    const { Contents = [] } = await client.send(
      new ListObjectsV2Command({ Bucket: s3.bucket, Prefix: 'health/' }),
    );
    assert.deepEqual(Contents, []);
    client.destroy();
    const redis = createClient({ url: env.SA01_REDIS_URL! });
    await redis.connect();
    assert.deepEqual(await redis.keys('health:*'), []);
    redis.destroy();
  });
  await rm(root, { recursive: true });
});

test('where nothing listens it is down', async (t) => {
  const address = `127.0.0.1:${await freePort()}`;
  const addresses = { brokers: [address], temporal: address };
  for (const target of targetsAt(address)) {
    await t.test(target.kind, async () => {
      const { outcome, timedOut, error } = await probeTarget(target, { limitSeconds: 20, addresses });
      assert.equal(outcome, 'down');
      assert.equal(timedOut, undefined);
      assert.match(error!, /ECONNREFUSED/);
    });
  }
});

test('what takes the connection and never answers is down at the limit, and the connection is closed', async (t) => {
  await using listener = await silentListener();
  const { address } = listener;
  const addresses = { brokers: [address], temporal: address };
  for (const target of targetsAt(address)) {
    await t.test(target.kind, async () => {
      const before = listener.accepted();
      const result = await probeTarget(target, { limitSeconds: 1, addresses });
      const { seconds, ...rest } = result;
      assert.deepEqual(rest, { outcome: 'down', timedOut: true, error: 'no answer within 1 s' });
      assert.ok(seconds >= 0.99, `after ${seconds} s`);
      assert.ok(listener.accepted() > before);
      // Its connection is not the probe's.
      if (target.kind === 'temporal') for (const socket of listener.open) socket.destroy();
      await eventually('all connections closed', () => listener.open.size === 0, {
        withinMs: 5_000,
      });
    });
  }
});
