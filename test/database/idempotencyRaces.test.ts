import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { suite, test } from 'node:test';
import type pg from 'pg';
import { complete, release } from '../../src/database/idempotency.ts';
import { openPool } from '../../src/database/postgres.ts';
import { type ProcessOnce, processOnce } from '../../src/database/processOnce.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { claim, expire } from '../support/idempotency.ts';

/** test/support/onceCaller.ts, as a process. */
class Caller implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly said: unknown[] = [];

  constructor(settings: { url: string; callers?: number } & Partial<ProcessOnce>) {
    const once = { callers: 1, key: 'k', operation: 'op', ...settings };
    this.process = spawn(process.execPath, ['test/support/onceCaller.ts'], {
      env: { ...process.env, ONCE_CALLER: JSON.stringify(once) },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    createInterface({ input: this.process.stdout! }).on('line', (line) => this.said.push(JSON.parse(line)));
  }

  tell(): void {
    this.process.stdin!.write('\n');
  }

  hasSaid(expected: unknown): Promise<unknown> {
    const text = JSON.stringify(expected);
    return eventually(text, () => this.said.some((line) => JSON.stringify(line) === text));
  }

  async running(): Promise<this> {
    await this.hasSaid('ready');
    this.tell();
    await this.hasSaid('running');
    return this;
  }

  async ended(): Promise<unknown[]> {
    if (this.process.exitCode === null && this.process.signalCode === null) await once(this.process, 'exit');
    return this.said;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill('SIGKILL');
    await this.ended();
  }
}

suite('Of 50 callers that race', () => {
  test('one claims the key, however it was before, and the others are told that it is in progress', async () => {
    await using database = await outboxDatabase();
    const pools = Array.from({ length: 3 }, () => openPool(database.url));
    const race = async () => {
      const claims = await Promise.all(Array.from({ length: 50 }, (_, n) => claim(pools[n % 3]!)));
      const runs = claims.filter((claimed) => claimed.outcome === 'run');
      assert.equal(runs.length, 1);
      assert.equal(claims.filter(({ outcome }) => outcome === 'in_progress').length, 49);
      return runs[0]!.hold;
    };
    const { client } = database;
    for (let round = 0; round < 10; round += 1) {
      const first = await race();
      await expire(client);
      const second = await race();
      await complete(client, second, 1);
      await expire(client);
      const third = await race();
      for (const held of [first, second, third]) await release(client, held);
    }
    await Promise.all(pools.map((pool) => pool.end()));
  });

  test('from five processes one does the work, and all have its result', async () => {
    await using database = await outboxDatabase();
    await using stack = new AsyncDisposableStack();
    const processes = Array.from({ length: 5 }, () =>
      stack.use(new Caller({ url: database.url, callers: 10, waitSeconds: 60 })),
    );
    for (const caller of processes) await caller.hasSaid('ready');
    for (const caller of processes) caller.tell();
    const isRunning = ({ said }: Caller) => said.includes('running');
    const runner = await eventually('one to run', () => processes.find(isRunning));
    runner.tell();
    const said = (await Promise.all(processes.map((caller) => caller.ended()))).flat();
    assert.equal(said.filter((line) => line === 'running').length, 1);
    const results = said.filter((line) => typeof line === 'object');
    assert.deepEqual(results, Array(50).fill({ result: { by: runner.process.pid } }));
  });
});

test('Whatever callers do at once, a key is claimed again only after an end, and what is handed on was stored', async () => {
  await using database = await outboxDatabase();
  const keys = ['a', 'b', 'c'];
  const count = () => Object.fromEntries(keys.map((key) => [key, 0]));
  const [runs, ends] = [count(), count()];
  const stored = new Set<unknown>();
  const any = (share: number) => Math.random() < share;
  const work = async (client: pg.Client, key: string) => {
    if (any(0.1)) {
      ends[key]! += 1;
      await expire(client, key);
    }
    const claimed = await claim(client, { key });
    if (claimed.outcome === 'completed') assert.ok(stored.has(claimed.result), 'nobody stored this result');
    if (claimed.outcome !== 'run') return;
    runs[key]! += 1;
    const { hold } = claimed;
    if (any(0.3)) {
      ends[key]! += 1;
      await release(client, hold);
    } else if (any(0.8)) {
      stored.add(hold.holder);
      await complete(client, hold, hold.holder).catch(({ code }) => assert.equal(code, 'idempotency_lost'));
    }
  };
  const clients = await Promise.all(Array.from({ length: 8 }, () => database.connect()));
  await Promise.all(
    clients.map(async (client) => {
      for (let turn = 0; turn < 150; turn += 1) await work(client, keys[turn % 3]!);
    }),
  );
  for (const key of keys) {
    assert.ok(runs[key]! > 10, `${runs[key]} claims of ${key}`);
    assert.ok(runs[key]! <= ends[key]! + 1, `${runs[key]} claims of ${key}, ${ends[key]} ends`);
  }
});

suite('A holder', () => {
  test('that is killed is succeeded when its hold is over', async () => {
    await using database = await outboxDatabase();
    const pool = openPool(database.url);
    await using killed = await new Caller({ url: database.url }).running();
    killed.process.kill('SIGKILL');
    await killed.ended();
    const once = (waitSeconds: number) =>
      processOnce(pool, { key: 'k', operation: 'op', waitSeconds }, () => 'successor');
    await assert.rejects(once(0), { code: 'idempotency_in_progress' });
    const successor = once(60);
    await expire(database.client);
    assert.equal(await successor, 'successor');
    await pool.end();
  });

  test('that was frozen while another succeeded it is told, and cannot write any more', async () => {
    await using database = await outboxDatabase();
    await using frozen = await new Caller({ url: database.url, holdSeconds: 1 }).running();
    frozen.process.kill('SIGSTOP');
    const successor = await eventually('the hold to end', async () => {
      const claimed = await claim(database.client);
      return claimed.outcome === 'run' ? claimed.hold : undefined;
    });
    frozen.process.kill('SIGCONT');
    await frozen.hasSaid({ aborted: 'idempotency_lost' });
    frozen.tell();
    await frozen.hasSaid({ error: 'idempotency_lost' });
    assert.equal((await claim(database.client)).outcome, 'in_progress');
    await complete(database.client, successor, 'successor');
    assert.deepEqual(await claim(database.client), { outcome: 'completed', result: 'successor' });
  });
});
