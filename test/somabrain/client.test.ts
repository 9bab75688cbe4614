import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { suite, test } from 'node:test';
import type { MemoryOutcome, OutgoingMemory } from '../../src/domain/memories.ts';
import { SomaBrain } from '../../src/somabrain/client.ts';
import type { Behaviour } from '../../stack/standIns/somabrain.ts';
import { SomaBrainStandIn } from '../../stack/standIns/somabrain.ts';

const memory = (key: string, fields: Partial<OutgoingMemory> = {}): OutgoingMemory => ({
  tenant: 'acme',
  namespace: 'wm',
  key,
  payload: '{"text":"hello"}',
  createdAt: '2026-01-31T12:00:00.000Z',
  attempts: 0,
  ...fields,
});
const poison = (key: string) => memory(key, { payload: '{"poison":true}' });

async function standIn(behaviour: Partial<Behaviour> = {}, token?: string) {
  const server = new SomaBrainStandIn();
  await server.listen();
  server.behave(behaviour);
  const client = new SomaBrain({ url: server.url, token });
  return { server, client, shelf: server.shelf, [Symbol.asyncDispose]: () => server.close() };
}

const kinds = (outcomes: MemoryOutcome[]) => outcomes.map(({ kind }) => kind);
const reasonOf = (outcome: MemoryOutcome | undefined) =>
  outcome && 'reason' in outcome ? outcome.reason : '';

suite('the shape of the API is found out by calls', () => {
  const cases = [
    [['batch', 'single'], [2]],
    [['single'], [1, 1]],
    [['platform'], [1, 1]],
  ] as const;
  for (const [apis, sizes] of cases) {
    test(apis.join(' and '), async () => {
      await using brain = await standIn({ apis: [...apis] });
      assert.deepEqual(kinds(await brain.client.remember([memory('a'), memory('b')])), ['stored', 'stored']);
      assert.deepEqual([...brain.shelf.stored.keys()], ['a', 'b']);
      assert.deepEqual(brain.shelf.sizes, sizes);
      const { calls } = brain.shelf;
      await brain.client.remember([memory('c')]);
      assert.equal(brain.shelf.calls, calls + 1, 'what works is remembered');
      assert.equal(brain.shelf.stored.get('c')?.value.text, 'hello');
    });
  }

  test('and again when it is there no more', async () => {
    await using brain = await standIn({ apis: ['batch', 'single'] });
    await brain.client.remember([memory('a'), memory('b')]);
    brain.server.behave({ apis: ['platform'] });
    assert.deepEqual(kinds(await brain.client.remember([memory('c'), memory('d')])), ['stored', 'stored']);
    assert.equal(brain.shelf.stored.size, 4);
  });

  test('a server that has none of them is away: no memory is at fault', async () => {
    await using brain = await standIn({ apis: [] });
    const outcomes = await brain.client.remember([memory('a'), memory('b')]);
    assert.deepEqual(kinds(outcomes), ['away', 'unsent']);
    assert.match(reasonOf(outcomes[0]), /404.*no place to store memories/);
  });
});

suite('what a call says of itself', () => {
  test('key, request id and token', async () => {
    await using brain = await standIn({ token: 'secret' }, 'secret');
    await brain.client.remember([memory('memory:acme:1')]);
    const { 'x-idempotency-key': key, 'x-request-id': id, authorization } = brain.shelf.lastHeaders;
    assert.deepEqual([key, authorization], ['memory:acme:1', 'Bearer secret']);
    assert.match(String(id), /^[0-9a-f-]{36}$/);
  });

  test('a batch that is repeated has the same key, after a rejection it has another', async () => {
    await using brain = await standIn();
    const keyOf = async (memories: OutgoingMemory[]) => {
      await brain.client.remember(memories);
      return brain.shelf.lastHeaders['x-idempotency-key'];
    };
    const first = await keyOf([memory('a'), memory('b')]);
    assert.equal(await keyOf([memory('a'), memory('b')]), first);
    assert.notEqual(await keyOf([memory('a'), memory('b', { attempts: 1 })]), first);
    assert.notEqual(await keyOf([memory('a'), memory('c')]), first);
  });

  test('tenants and keys of any characters, numbers to the last digit', async () => {
    await using brain = await standIn({ apis: ['platform'] });
    const key = 'memory:a/b?c#d%20 é🧠:1';
    const payload = '{"big":12345678901234567890,"text":"🧠"}';
    assert.deepEqual(kinds(await brain.client.remember([memory(key, { tenant: 'a/b 🧠', payload })])), [
      'stored',
    ]);
    const [stored] = brain.shelf.stored.values();
    assert.deepEqual([stored?.key, stored?.tenant, stored?.value.text], [key, 'a/b 🧠', '🧠']);
  });
});

suite('what SomaBrain says no to', () => {
  test('one of a batch, the others are stored', async () => {
    await using brain = await standIn();
    const outcomes = await brain.client.remember([memory('a'), poison('b'), memory('c')]);
    assert.deepEqual(kinds(outcomes), ['stored', 'rejected', 'stored']);
    assert.match(reasonOf(outcomes[1]), /422: poison/);
  });

  test('a whole batch: one by one, up to the one at fault', async () => {
    await using brain = await standIn({ poison: 'with its batch' });
    const outcomes = await brain.client.remember([memory('a'), poison('b'), memory('c')]);
    assert.deepEqual(kinds(outcomes), ['stored', 'rejected', 'unsent']);
  });

  test('too large a batch is taken apart, too large a memory is rejected', async () => {
    await using brain = await standIn({ maxBytes: 2_000 });
    const large = JSON.stringify({ text: 'x'.repeat(1_200) });
    const outcomes = await brain.client.remember([
      memory('a', { payload: large }),
      memory('b', { payload: large }),
    ]);
    assert.deepEqual(kinds(outcomes), ['stored', 'stored']);
    const huge = JSON.stringify({ text: 'x'.repeat(2_000_000) });
    const [outcome] = await brain.client.remember([memory('c', { payload: huge })]);
    assert.deepEqual(
      [outcome?.kind, reasonOf(outcome)],
      ['rejected', 'SomaBrain answers 413: Request body too large'],
    );
  });

  for (const [status, kind] of [
    [400, 'rejected'],
    [401, 'away'],
    [403, 'rejected'],
    [404, 'rejected'],
    [408, 'away'],
    [409, 'busy'],
    [410, 'rejected'],
    [413, 'rejected'],
    [422, 'rejected'],
    [425, 'busy'],
    [429, 'away'],
    [500, 'away'],
    [502, 'away'],
    [503, 'away'],
    [504, 'away'],
  ] as const) {
    test(`${status} is ${kind}`, async () => {
      await using brain = await standIn({ memories: status });
      assert.deepEqual(kinds(await brain.client.remember([memory('a')])), [kind]);
      assert.equal(brain.shelf.stored.size, 0);
    });
  }
});

suite('what is not the memory’s fault', () => {
  const nonsense: [Behaviour['memories'], RegExp][] = [
    ['html', /200 without a JSON object/],
    ['empty', /200 without a JSON object/],
    ['garbage', /no usable answer/],
    ['gzip bomb', /more than 1 MiB/],
    ['10 MB', /more than 1 MiB/],
    ['redirect', /redirect \(307\)/],
    ['stored, then 503', /answers 503/],
    ['stored, then 504', /answers 504/],
    ['stored, then drop', /no usable answer/],
  ];
  for (const [memories, reason] of nonsense) {
    test(memories.toString(), async () => {
      await using brain = await standIn({ memories });
      const outcomes = await brain.client.remember([memory('a'), memory('b')]);
      assert.ok(outcomes.length === 2 && outcomes.every(({ kind }) => kind === 'away' || kind === 'unsent'));
      assert.match(reasonOf(outcomes[0]), reason);
      brain.server.behave({ memories: 'store' });
      assert.deepEqual(kinds(await brain.client.remember([memory('a'), memory('b')])), ['stored', 'stored']);
      assert.equal(brain.shelf.stored.size, 2, 'each is there once');
    });
  }

  test('gzip is understood', async () => {
    await using brain = await standIn({ memories: 'gzip' });
    assert.deepEqual(kinds(await brain.client.remember([memory('a')])), ['stored']);
  });

  test('Retry-After is passed on, a wrong token waits for a right one', async () => {
    await using brain = await standIn({ memories: 429, retryAfter: 7 });
    const [outcome] = await brain.client.remember([memory('a')]);
    assert.deepEqual(outcome, {
      kind: 'away',
      reason: 'SomaBrain answers 429',
      retryAfterMs: 7_000,
    });
    brain.server.behave({ memories: 'store', token: 'another' });
    assert.deepEqual(kinds(await brain.client.remember([memory('a')])), ['away']);
  });

  test('nobody listens, or nobody answers until the call is cut off', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await new Promise((resolve) => silent.once('listening', resolve));
    const { port } = silent.address() as { port: number };
    const client = new SomaBrain({ url: `http://127.0.0.1:${port}` });
    const cut = new AbortController();
    const asking = client.remember([memory('a')], cut.signal);
    cut.abort();
    assert.deepEqual(kinds(await asking), ['away']);
    silent.close();
    const refused = await new SomaBrain({ url: 'http://127.0.0.1:1' }).remember([memory('a')]);
    assert.deepEqual(kinds(refused), ['away']);
  });
});

test('only http and https, and no credentials in what is said', () => {
  for (const url of ['file:///etc/passwd', 'ftp://x', 'javascript:alert(1)', 'no url', '']) {
    assert.throws(() => new SomaBrain({ url }), /must be http:\/\/ or https:\/\//, url);
  }
  new SomaBrain({ url: 'https://user:pass@example.org/api' });
  assert.throws(
    () => new SomaBrain({ url: 'http://x', token: 'two\nlines' }),
    (error: Error) => /must be printable ASCII/.test(error.message) && !error.message.includes('two'),
  );
});
