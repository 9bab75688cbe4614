// What a probe makes of an answer, and what it tells of it.
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { ProbeTarget } from '../../src/probes/target.ts';
import { SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';
import { emptyDatabase } from '../support/database.ts';
import { httpListener } from '../support/listeners.ts';
import { probeTarget, targetsAt } from '../support/probes.ts';
import { testStack } from '../support/stack.ts';

const env = testStack().env();
const withPassword = (url: string, password: string): string =>
  Object.assign(new URL(url), { username: 'prober', password }).href;

test('Postgres that takes no writes is down', async () => {
  await using database = await emptyDatabase();
  const name = new URL(database.url).pathname.slice(1);
  await database.client.query(`ALTER DATABASE ${name} SET default_transaction_read_only = on`);
  const { outcome, error } = await probeTarget({ kind: 'postgres', url: database.url });
  assert.equal(outcome, 'down');
  assert.match(error!, /takes no writes/);
});

test('Wrong credentials are down, and no text has them', async (t) => {
  const secret = 'tell-nobody%21';
  const targets: ProbeTarget[] = [
    { kind: 'postgres', url: withPassword(env.SA01_DATABASE_URL!, secret) },
    { kind: 'redis', url: withPassword(env.SA01_REDIS_URL!, secret) },
    { kind: 'redisStore', url: withPassword(env.SA01_REDIS_URL!, secret) },
    {
      kind: 's3',
      endpoint: env.SA01_S3_ENDPOINT!,
      bucket: env.SA01_S3_BUCKET!,
      accessKeyId: env.AWS_ACCESS_KEY_ID!,
      secretAccessKey: secret,
    },
  ];
  for (const target of targets) {
    await t.test(target.kind, async () => {
      const { outcome, error } = await probeTarget(target);
      assert.equal(outcome, 'down');
      assert.ok(error);
      assert.doesNotMatch(error, /tell-nobody/);
    });
  }
});

test('HTTP credentials are sent, and never told', async () => {
  let sent: string | undefined;
  await using listener = await httpListener((request, response) => {
    sent = request.headers.authorization;
    response.writeHead(401).end('tell-nobody');
  });
  const url = `http://prober:tell-nobody@${listener.address}/health?key=tell-nobody`;
  const { outcome, error } = await probeTarget({ kind: 'http', url });
  assert.deepEqual({ outcome, error }, { outcome: 'down', error: 'answers 401' });
  assert.equal(sent, `Basic ${Buffer.from('prober:tell-nobody').toString('base64')}`);
});

test('An HTTP answer is up, degraded or down by its status and what its JSON says', async (t) => {
  let answer: { status: number; body: string } = { status: 200, body: '' };
  await using listener = await httpListener((_, response) => {
    response.writeHead(answer.status, { location: '/elsewhere' }).end(answer.body);
  });
  const cases: [status: number, body: string, expected: object][] = [
    [200, 'OK', { outcome: 'up' }],
    [204, '', { outcome: 'up' }],
    [200, '{"status": "ok", "ready": true}', { outcome: 'up' }],
    [200, '["status", "down"]', { outcome: 'up' }],
    [200, `{"status": "down", "log": "${'x'.repeat(70_000)}"}`, { outcome: 'up' }],
    [200, '{"status": "Degraded"}', { outcome: 'up', atLeast: 'minor', error: 'says status: degraded' }],
    [200, '{"status": "warn"}', { outcome: 'up', atLeast: 'minor', error: 'says status: warn' }],
    [200, '{"status": "UNHEALTHY"}', { outcome: 'down', error: 'says status: unhealthy' }],
    [200, '{"status": "fail"}', { outcome: 'down', error: 'says status: fail' }],
    [200, '{"ready": false}', { outcome: 'down', error: 'says ready: false' }],
    [200, '{"ok": false, "status": "ok"}', { outcome: 'down', error: 'says ok: false' }],
    [200, '{"healthy": false}', { outcome: 'down', error: 'says healthy: false' }],
    [302, '', { outcome: 'down', error: 'answers 302' }],
    [500, '{"ok": true}', { outcome: 'down', error: 'answers 500' }],
  ];
  for (const [status, body, expected] of cases) {
    await t.test(`${status} ${body.slice(0, 40)}`, async () => {
      answer = { status, body };
      const { seconds, ...result } = await probeTarget({
        kind: 'http',
        url: `http://${listener.address}/health`,
      });
      assert.deepEqual(result, expected);
    });
  }
});

test('SomaBrain is as ready as it says', async (t) => {
  await using brain = new SomaBrainStandIn();
  await brain.listen();
  const probe = async () => {
    const { seconds, ...result } = await probeTarget({ kind: 'somabrain', url: `${brain.url}/` });
    return result;
  };
  await t.test('ready', async () => assert.deepEqual(await probe(), { outcome: 'up' }));
  await t.test('not ready', async () => {
    brain.behave({ health: 'not ready' });
    assert.deepEqual(await probe(), { outcome: 'down', error: 'says ready: false' });
  });
  await t.test('a 503', async () => {
    brain.behave({ health: '503' });
    assert.deepEqual(await probe(), { outcome: 'down', error: 'answers 503' });
  });
  await t.test('a connection that ends', async () => {
    brain.behave({ health: 'drop' });
    assert.equal((await probe()).outcome, 'down');
  });
  await t.test('slow, and failing now and then, told to it over HTTP', async () => {
    const body = JSON.stringify({ health: 'ready', delaySeconds: 0.3, errorRate: 0.25 });
    await fetch(`${brain.url}/stand-in/behaviour`, { method: 'PUT', body });
    const target: ProbeTarget = { kind: 'http', url: `${brain.url}/health` };
    const results = await Promise.all(Array.from({ length: 8 }, () => probeTarget(target)));
    assert.equal(results.filter(({ outcome }) => outcome === 'down').length, 2);
    // A timer may fire a moment before its time.
    for (const { seconds } of results) assert.ok(seconds >= 0.29, `after ${seconds} s`);
  });
  await t.test('something else that answers', async () => {
    await using listener = await httpListener((_, response) => void response.end('{"status": "ok"}'));
    const target: ProbeTarget = { kind: 'somabrain', url: `http://${listener.address}` };
    const { outcome, error } = await probeTarget(target);
    assert.deepEqual({ outcome, error }, { outcome: 'down', error: 'says neither ready nor ok' });
  });
});

test('Storage that gives back something else is down', async () => {
  const methods: string[] = [];
  await using listener = await httpListener((request, response) => {
    methods.push(request.method!);
    request.resume();
    response.end(request.method === 'GET' ? 'something else' : '');
  });
  const target = targetsAt(listener.address).find(({ kind }) => kind === 's3')!;
  const { outcome, error } = await probeTarget(target);
  assert.equal(outcome, 'down');
  assert.match(error!, /reads back as something else/);
  assert.deepEqual(methods, ['PUT', 'GET', 'DELETE']);
});

test('Storage that begins an answer and does not end it is down at the limit', async () => {
  await using listener = await httpListener((request, response) => {
    request.resume();
    if (request.method === 'GET') response.writeHead(200, { 'content-length': 36 }).write('1234');
    else response.end();
  });
  const target = targetsAt(listener.address).find(({ kind }) => kind === 's3')!;
  const { outcome, timedOut } = await probeTarget(target, { limitSeconds: 1 });
  assert.deepEqual({ outcome, timedOut }, { outcome: 'down', timedOut: true });
});

test('A directory that is missing, a file, or not writable is down', async (t) => {
  const root = await mkdtemp(path.join(tmpdir(), 'probe-'));
  const probe = async (directory: string) => probeTarget({ kind: 'filesystem', root: directory });
  const locked = path.join(root, 'locked');
  await mkdir(locked, { mode: 0o555 });
  try {
    await t.test('missing', async () =>
      assert.match((await probe(path.join(root, 'nowhere'))).error!, /ENOENT/),
    );
    await t.test('a file', async () => assert.match((await probe(import.meta.filename)).error!, /ENOTDIR/));
    await t.test('not writable', async () => {
      // root may write everywhere, so it becomes somebody else for a moment.
      await chmod(root, 0o755);
      const isRoot = process.geteuid?.() === 0;
      if (isRoot) process.seteuid?.(65_534);
      try {
        const { outcome, error } = await probe(locked);
        assert.equal(outcome, 'down');
        assert.match(error!, /EACCES/);
      } finally {
        if (isRoot) process.seteuid?.(0);
      }
    });
    assert.deepEqual(await readdir(locked), []);
  } finally {
    await rm(root, { recursive: true });
  }
});
