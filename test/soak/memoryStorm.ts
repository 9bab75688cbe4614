import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { readMemoryBacklog } from '../../src/database/memoryBook.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { countMemories, insertMemories, numberedMemories, standInBrain } from '../support/memories.ts';
import { type TestNamespace, temporalNamespace } from '../support/worker.ts';

export interface Storm {
  tenants: number;
  perTenant: number;
  kills: number;
}

const PORTION = 2_000;
const FLAP = ['stored, then 503', 503, 'stored, then drop', 'html', 429, 'stored, then 504'] as const;
const taskQueue = 'storm';

/**
 * Memories are written while SomaBrain is down; then it flaps, in all the ways in which it can be away, and the worker is
 * killed in between. Ends with every memory there once, in order for each tenant, and no attempt spent.
 */
export async function memoryStorm({ tenants, perTenant, kills }: Storm, say = (_: string) => {}) {
  await using database = await outboxDatabase();
  await using namespace = await temporalNamespace();
  await using brain = await standInBrain({ memories: 503 });
  const start = () => startProcess({ url: database.url, brainUrl: brain.url, namespace: namespace.name });
  let worker = start();
  try {
    await startWorkflow(namespace);
    await write(database.client, tenants, perTenant);
    say(`${tenants * perTenant} memories written, SomaBrain is down`);
    const { memorySync } = orchestrator(namespace);
    await eventually('the outage to be told', async () => (await memorySync.status()).state === 'waiting');
    const total = tenants * perTenant;
    for (let killed = 0; killed <= kills; killed += 1) {
      const goal = Math.floor((total * (killed + 1)) / (kills + 1));
      await flapUntil(brain, () => brain.shelf.stored.size >= goal || killed === kills);
      if (killed === kills) break;
      await kill(worker);
      say(`worker killed with ${brain.shelf.stored.size} stored`);
      worker = start();
    }
    await memorySync.syncNow();
    await eventually(
      'all to be synced',
      async () => (await countMemories(database.client)).synced === total,
      {
        withinMs: 180_000,
        everyMs: 200,
      },
    );
    assertComplete(brain.shelf, { tenants, perTenant, kills });
    assert.deepEqual(await countMemories(database.client), {
      synced: total,
      pending: 0,
      dead: 0,
      attempts: 0,
    });
    assert.equal((await readMemoryBacklog(database.client)).totals.synced, total);
    await eventually('the status to agree', async () => {
      const { synced_total, pending, dead_total, last_error } = await memorySync.status();
      return synced_total === total && pending === 0 && dead_total === 0 && last_error === null;
    });
    say(`${total} memories there, each once, in order; ${brain.shelf.duplicates} repeated under their keys`);
  } finally {
    await kill(worker);
  }
}

type Brain = Awaited<ReturnType<typeof standInBrain>>;

/** Takes it away and brings it back, until `isEnough`. */
async function flapUntil(brain: Brain, isEnough: () => boolean): Promise<void> {
  let flaps = 0;
  do {
    const before = brain.shelf.stored.size;
    brain.server.behave({ memories: 'store' });
    await eventually('it to be used again', () => brain.shelf.stored.size > before + 500 || isEnough(), {
      everyMs: 5,
    });
    brain.server.behave({ memories: FLAP[flaps % FLAP.length]! });
    const { calls } = brain.shelf;
    await eventually('the outage to be met', () => brain.shelf.calls > calls || isEnough(), { everyMs: 5 });
    flaps += 1;
  } while (!isEnough());
  brain.server.behave({ memories: 'store' });
}

function assertComplete(shelf: Brain['shelf'], { tenants, perTenant }: Storm): void {
  assert.equal(shelf.stored.size, tenants * perTenant);
  const all = Array.from({ length: perTenant }, (_, index) => index);
  for (const [tenant, numbers] of shelf.byTenant<number>('number')) assert.deepEqual(numbers, all, tenant);
}

async function write(client: pg.Client, tenants: number, perTenant: number): Promise<void> {
  const rows = numberedMemories(tenants, perTenant);
  for (let from = 0; from < rows.length; from += PORTION)
    await insertMemories(client, rows.slice(from, from + PORTION));
}

const orchestrator = ({ client }: TestNamespace) => {
  const workflow = client.workflow.getHandle('memory-sync');
  return {
    memorySync: {
      status: () => workflow.query<Record<string, unknown>>('status'),
      syncNow: () => workflow.signal('syncNow'),
    },
  };
};

async function startWorkflow({ client }: TestNamespace): Promise<void> {
  await client.workflow.start('memorySync', { workflowId: 'memory-sync', taskQueue });
}

function startProcess(where: Record<string, string>): ChildProcess {
  return spawn(
    process.execPath,
    ['--disable-warning=TimeoutNegativeWarning', 'test/support/memorySyncProcess.ts'],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, MEMORY_SYNC: JSON.stringify({ ...where, taskQueue }) },
    },
  );
}

async function kill(worker: ChildProcess): Promise<void> {
  if (worker.exitCode !== null || worker.signalCode !== null) return;
  const exit = once(worker, 'exit');
  worker.kill('SIGKILL');
  await exit;
  await delay(0);
}
