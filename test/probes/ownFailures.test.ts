// What is the probing's own failure: no descriptors, a process that stands still. And what it must not leave behind.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import type { ProbeResult } from '../../src/domain/health.ts';
import { explain, isOurOwn } from '../../src/probes/failure.ts';
import { probeAll } from '../../src/probes/probe.ts';
import type { Probing } from '../../src/probes/target.ts';
import { freePort } from '../../stack/ports.ts';
import { eventually } from '../support/eventually.ts';
import { type Listener, silentListener } from '../support/listeners.ts';
import { probeTarget, probeTools, targetsAt } from '../support/probes.ts';

const run = promisify(execFile);

test('A process without file descriptors knows nothing of others', async () => {
  const address = `127.0.0.1:${await freePort()}`;
  const limited = ['-c', 'ulimit -n 60 && exec "$0" "$@"', process.execPath, ...process.execArgv];
  const script = path.join(import.meta.dirname, 'exhausted.ts');
  const { stdout } = await run('sh', [...limited, script, address]);
  const group = JSON.parse(stdout) as ProbeResult;
  const told = Object.values(group.members!).map(({ outcome, error }) => `${outcome} ${error}`);
  for (const line of told) assert.match(line, /^unknown /, told.join('\n'));
  assert.equal(group.outcome, 'unknown');
});

test('An address that this host cannot reach by one of its protocols is not its failure by the other', () => {
  const noIpv6 = Object.assign(new Error('connect EADDRNOTAVAIL ::1:1'), { code: 'EADDRNOTAVAIL' });
  const refused = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED' });
  assert.equal(isOurOwn(new TypeError('fetch failed', { cause: noIpv6 })), true);
  assert.equal(
    isOurOwn(new TypeError('fetch failed', { cause: new AggregateError([noIpv6, refused]) })),
    false,
  );
});

test('A text has the reasons, not the secrets, and is short', () => {
  const target = { kind: 'http', url: 'https://me:p%40ss@here/?key=abc123' } as const;
  const cause = new AggregateError([new Error('p@ss p%40ss'), new Error('at redis://:other@there abc123')]);
  assert.equal(explain(new Error('failed', { cause }), target), '*** ***; at redis://***@there ***');
  assert.equal(explain(new Error('x'.repeat(1000)), target).length, 300);
});

test('A limit that passes while this process stands still tells nothing of the other side', async () => {
  await using listener = await silentListener();
  const target = { kind: 'http', url: `http://${listener.address}` } as const;
  const probing = probeTarget(target, { limitSeconds: 1 });
  await eventually('the connection', () => listener.accepted() === 1, { everyMs: 1 });
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500);
  const { outcome, timedOut, error } = await probing;
  assert.deepEqual({ outcome, timedOut }, { outcome: 'unknown', timedOut: true });
  assert.match(error!, /stood still/);
});

test('Fifty limits that pass leave no connection, timer or other resource behind', async () => {
  await using listener = await silentListener();
  const addresses = { brokers: [listener.address], temporal: listener.address };
  await using tools = probeTools(addresses);
  // What is loaded or opened once: by the first probe of each kind.
  await probeAll({ gateway: await membersAt(listener, 1) }, tools);
  const before = await settled(listener);
  const { gateway } = await probeAll({ gateway: await membersAt(listener, 6) }, tools);
  assert.equal(Object.keys(gateway!.members!).length, 54);
  for (const { outcome, timedOut } of Object.values(gateway!.members!))
    assert.deepEqual({ outcome, timedOut }, { outcome: 'down', timedOut: true });
  await eventually('as many resources as before', () => {
    assert.deepEqual(resources(), before);
    return true;
  });
  // One connection for all probes of Temporal.
  assert.equal(listener.open.size, 1);
});

async function membersAt({ address }: Listener, each: number) {
  const members: Record<string, Probing> = {};
  for (const target of targetsAt(address))
    for (let n = 0; n < each; n += 1) members[`${target.kind} ${n}`] = { target, limitSeconds: 2 };
  return { members };
}

async function settled(listener: Listener): Promise<Record<string, number>> {
  await eventually('all but the connection of Temporal closed', () => listener.open.size === 1);
  await eventually('no timers', () => !('Timeout' in resources()));
  return resources();
}

/** What keeps the process alive, by kind. */
function resources(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

test('A file system that hangs is down, takes one thread at most, and is clean when it comes back', async (t) => {
  const root = await mkdtemp(path.join(tmpdir(), 'probe-'));
  const pipes = path.join(await mkdtemp(path.join(tmpdir(), 'pipes-')), 'pipe');
  await run('mkfifo', [pipes]);
  // Each thread of the pool waits for the pipe's other end; so every file operation behind them hangs.
  const threads = Number(process.env.UV_THREADPOOL_SIZE ?? 4);
  const hanging = Array.from({ length: threads }, () => open(pipes, 'r'));
  // A process cannot exit while its threads stand in a system call.
  let released: Promise<void> | undefined;
  const release = () => (released ??= free());
  async function free() {
    spawn('tee', [pipes], { stdio: ['pipe', 'ignore', 'ignore'] }).stdin.end();
    for (const handle of await Promise.all(hanging)) await handle.close();
  }
  t.after(release);
  const target = { kind: 'filesystem', root } as const;
  const first = await probeTarget(target, { limitSeconds: 1 });
  assert.deepEqual([first.outcome, first.timedOut], ['down', true]);
  const second = await probeTarget(target, { limitSeconds: 1 });
  assert.equal(second.outcome, 'down');
  assert.match(second.error!, /not come back/);
  await release();
  await eventually('up again', async () => (await probeTarget(target)).outcome === 'up');
  assert.deepEqual(await readdir(root), []);
  await rm(root, { recursive: true });
  await rm(path.dirname(pipes), { recursive: true });
});
