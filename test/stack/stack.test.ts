// The stack itself, with the real services: data, independence, crashes, leftovers, ports.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Kafka, logLevel } from 'kafkajs';
import { Client } from 'pg';
import { createClient } from 'redis';
import { identify, isAlive } from '../../stack/processes.ts';
import { freePorts, type ServiceName, Stack, services, temporalCli } from '../../stack/stack.ts';
import { createTestStack, type TestStack } from '../../stack/testStack.ts';

const runFile = promisify(execFile);
let stack: TestStack;

before(async () => {
  stack = await createTestStack();
  await stack.start();
});
after(() => stack?.remove());

const pids = () => services.map((name) => stack.pid(name));

async function sql(statement: string) {
  const client = new Client({ connectionString: stack.env().SA01_DATABASE_URL! });
  await client.connect();
  try {
    return (await client.query(statement)).rows;
  } finally {
    await client.end();
  }
}

const redisClient = () => createClient({ url: stack.env().SA01_REDIS_URL! });

async function withRedis<T>(work: (client: ReturnType<typeof redisClient>) => Promise<T>): Promise<T> {
  const client = redisClient();
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    client.destroy();
  }
}

async function kafkaTopics(create?: string): Promise<string[]> {
  const brokers = [stack.env().SA01_KAFKA_BOOTSTRAP_SERVERS!];
  const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin();
  await admin.connect();
  try {
    if (create) await admin.createTopics({ topics: [{ topic: create }] });
    return await admin.listTopics();
  } finally {
    await admin.disconnect();
  }
}

async function temporalWorkflows(...start: string[]): Promise<string> {
  const words = [
    'workflow',
    ...(start.length > 0 ? start : ['list']),
    '--address',
    stack.env().SA01_TEMPORAL_HOST!,
  ];
  return (await runFile(await temporalCli(), words)).stdout;
}

/** One thing written through each service's own protocol, and how to see that it is still there. */
const probes: Record<ServiceName, { write: () => Promise<unknown>; kept: () => Promise<boolean> }> = {
  postgres: {
    write: () => sql('CREATE TABLE probe (n int); INSERT INTO probe VALUES (7)'),
    kept: async () => (await sql('SELECT n FROM probe'))[0].n === 7,
  },
  kafka: {
    write: () => kafkaTopics('probe'),
    kept: async () => (await kafkaTopics()).includes('probe'),
  },
  redis: {
    write: () => withRedis((client) => client.set('probe', '7')),
    kept: async () => (await withRedis((client) => client.get('probe'))) === '7',
  },
  temporal: {
    write: () =>
      temporalWorkflows('start', '--type', 'probe', '--task-queue', 'probe', '--workflow-id', 'probe-7'),
    kept: async () =>
      (await eventually(temporalWorkflows, (list) => list.includes('probe-7'))).includes('probe-7'),
  },
  s3: {
    // The bucket that each start makes sure of; objects in it are files below the data directory.
    write: async () => writeFileSync(path.join(stack.directory, 's3/data/somaagent/probe'), '7'),
    kept: async () => existsSync(path.join(stack.directory, 's3/data/somaagent/probe')),
  },
};

async function eventually<T>(
  look: () => Promise<T>,
  wanted: (seen: T) => boolean,
  withinMs = 10_000,
): Promise<T> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const seen = await look();
    if (wanted(seen) || Date.now() > deadline) return seen;
    await sleep(50);
  }
}

test('all services are ready, on loopback addresses of their own', async () => {
  const states = await stack.status();
  assert.deepEqual(
    states.map(({ name, state }) => [name, state]),
    services.map((name) => [name, 'ready']),
  );
  assert.equal(new Set(states.flatMap(({ address }) => address.split(' '))).size, 7);
  for (const { address } of states) assert.match(address, /^127\.0\.0\.1:\d+/);
});

test('starting what already runs leaves every process alone, also from another handle', async () => {
  const earlier = pids();
  const lines: string[] = [];
  await new Stack({
    directory: stack.directory,
    ports: stack.ports,
    report: (line) => lines.push(line),
  }).start();
  assert.deepEqual(pids(), earlier);
  assert.equal(lines.filter((line) => line.includes('already running')).length, services.length);
});

for (const name of services) {
  test(`${name} stops and starts alone and keeps its data, over a crash as well`, async () => {
    await probes[name].write();
    const others = services.filter((other) => other !== name);
    const earlier = others.map((other) => stack.pid(other));
    await stack.stop([name]);
    assert.equal(stack.pid(name), undefined);
    await stack.start([name]);
    assert.ok(await probes[name].kept(), 'after a stop');
    stack.signal(name, 'SIGKILL');
    await stack.start([name]);
    assert.ok(await probes[name].kept(), 'after SIGKILL');
    assert.deepEqual(
      others.map((other) => stack.pid(other)),
      earlier,
    );
  });
}

test('a frozen service stops, and starts again', async () => {
  const frozen = identify(stack.pid('redis')!)!;
  stack.signal('redis', 'SIGSTOP');
  assert.equal((await stack.status()).find(({ name }) => name === 'redis')?.state, 'not ready');
  await stack.stop(['redis']);
  assert.ok(!isAlive(frozen));
  await stack.start(['redis']);
});

test('a port that another program uses is named in one sentence', async () => {
  await stack.stop(['redis']);
  const other = createServer().listen(stack.ports.redis, '127.0.0.1');
  try {
    const expected = new RegExp(
      `^Redis cannot start because another program uses port ${stack.ports.redis} .*\\.$`,
    );
    await assert.rejects(stack.start(['redis']), { name: 'StackError', message: expected });
  } finally {
    await new Promise((resolve) => other.close(resolve));
    await stack.start(['redis']);
  }
});

test('a service that ends during its start shows the end of its log and where it is', async () => {
  await stack.stop(['postgres']);
  const file = path.join(stack.directory, 'postgres/data/postgresql.conf');
  const good = readFileSync(file, 'utf8');
  writeFileSync(file, `${good}\nno_such_setting = 1\n`);
  try {
    await assert.rejects(stack.start(['postgres']), (error: Error) => {
      assert.match(error.message, /^PostgreSQL did not start: its process ended/);
      assert.match(error.message, /no_such_setting/);
      assert.ok(error.message.includes(stack.log('postgres')));
      return true;
    });
    assert.equal(stack.pid('postgres'), undefined);
  } finally {
    writeFileSync(file, good);
    await stack.start(['postgres']);
  }
});

/** A process of its own that starts two services of the stack that `expression` makes, and never stops them. */
async function parentThatStarts(expression: string) {
  const module = (name: string) => JSON.stringify(new URL(`../../stack/${name}`, import.meta.url).href);
  const script = `
    const { createTestStack } = await import(${module('testStack.ts')});
    const { Stack } = await import(${module('stack.ts')});
    const stack = ${expression};
    await stack.start(['postgres', 'redis']);
    console.log(JSON.stringify({ directory: stack.directory, pids: [stack.pid('postgres'), stack.pid('redis')] }));
    setInterval(() => {}, 1000);`;
  const args = ['--input-type=module', '-e', script];
  const parent = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => parent.once('exit', resolve));
  const line = await Promise.race([
    new Promise<string>((resolve) => parent.stdout.once('data', (chunk) => resolve(String(chunk)))),
    ended.then((code) => Promise.reject(new Error(`the parent ended with ${code}`))),
  ]);
  const { directory, pids } = JSON.parse(line) as { directory: string; pids: number[] };
  const kill = () => {
    parent.kill('SIGKILL');
    return ended;
  };
  return { directory, left: pids.map((pid) => identify(pid)!), kill };
}

test('after kill -9 of its parent a stack is found again: the next start replaces, a stop leaves nothing', async () => {
  await using mine = await createTestStack();
  const { directory, ports } = mine;
  // On other ports than the heir's, so what the parent leaves is a leftover and not a service already running.
  const options = { directory, ports: await freePorts() };
  const { left, kill } = await parentThatStarts(`new Stack({ ...${JSON.stringify(options)}, report() {} })`);
  await kill();
  assert.ok(left.every(isAlive), 'services outlive the process that started them');
  const heir = new Stack({ directory, ports, report: () => {} });
  await heir.start(['postgres', 'redis']);
  assert.ok(!left.some(isAlive), 'leftovers are gone');
  const running = (['postgres', 'redis'] as const).map((name) => identify(heir.pid(name)!)!);
  await heir.stop();
  assert.ok(!running.some(isAlive));
});

test('a new test stack sweeps away the stacks of test processes that were killed', async () => {
  const { directory, left, kill } = await parentThatStarts('await createTestStack()');
  await using mine = await createTestStack();
  assert.ok(left.every(isAlive), 'the stack of a living process is not touched');
  await kill();
  await using next = await createTestStack();
  assert.ok(!left.some(isAlive));
  assert.ok(!existsSync(directory));
  assert.ok(existsSync(mine.directory) && existsSync(next.directory));
});
