import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { MAX_CALL_MEMORIES, MAX_CALLS, type OutgoingMemory } from '../../src/domain/memories.ts';
import { SomaBrain } from '../../src/somabrain/client.ts';
import { outboxDatabase } from '../support/database.ts';
import { countMemories, insertMemories, numberedMemories, startSync } from '../support/memories.ts';

export interface Comparison {
  api: 'batch' | 'single';
  /** How long the server takes over a call. */
  delaySeconds: number;
}

const TENANTS = 200;
const WARM_UP = 'warm-up';

/** Memories per second of the sync, beside those of a loop that makes the same calls and does nothing else. */
export async function compareMemories({ api, delaySeconds }: Comparison, say: (line: string) => void) {
  const perTenant = api === 'batch' ? 250 : 25;
  const behaviour = { apis: api === 'batch' ? ['batch', 'single'] : ['single'], delaySeconds };
  const rates = { bare: [] as number[], sync: [] as number[] };
  for (let round = 0; round < 3; round += 1) {
    rates.bare.push(await withServer(behaviour, (url) => bareRate(url, perTenant)));
    rates.sync.push(await withServer(behaviour, (url) => syncRate(url, perTenant)));
  }
  const [bare, sync] = [median(rates.bare), median(rates.sync)];
  const ms = delaySeconds * 1000;
  say(
    `${api}, ${ms} ms a call: bare loop ${Math.round(bare)}/s, sync ${Math.round(sync)}/s, ratio ${(sync / bare).toFixed(2)}`,
  );
}

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

async function withServer<T>(behaviour: object, work: (url: string) => Promise<T>): Promise<T> {
  const server = spawn(process.execPath, ['test/support/standInProcess.ts', JSON.stringify(behaviour)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const [url] = (await once(createInterface(server.stdout), 'line')) as [string];
    // Both begin with a warm client and a server that has stored something.
    await Promise.all(calls(1, 1, WARM_UP).map((call) => new SomaBrain({ url }).remember(call)));
    return await work(url);
  } finally {
    server.kill('SIGKILL');
  }
}

/** As the sync sends them: each tenant's in order, up to 100 a call. */
function calls(tenants: number, perTenant: number, prefix = 'bare'): OutgoingMemory[][] {
  const byTenant = Map.groupBy(numberedMemories(tenants, perTenant), ({ tenant }) => tenant);
  return [...byTenant.values()].flatMap((rows) =>
    Array.from({ length: Math.ceil(rows.length / MAX_CALL_MEMORIES) }, (_, part) =>
      rows.slice(part * MAX_CALL_MEMORIES, (part + 1) * MAX_CALL_MEMORIES).map(({ tenant, payload }, n) => ({
        tenant,
        namespace: 'wm',
        key: `${prefix}:${tenant}:${part}:${n}`,
        payload: JSON.stringify(payload),
        createdAt: new Date().toISOString(),
        attempts: 0,
      })),
    ),
  );
}

async function bareRate(url: string, perTenant: number): Promise<number> {
  const store = new SomaBrain({ url });
  const queue = calls(TENANTS, perTenant);
  const started = performance.now();
  const caller = async () => {
    for (let call = queue.pop(); call; call = queue.pop()) await store.remember(call);
  };
  await Promise.all(Array.from({ length: MAX_CALLS }, caller));
  return (TENANTS * perTenant * 1000) / (performance.now() - started);
}

async function syncRate(url: string, perTenant: number): Promise<number> {
  await using database = await outboxDatabase();
  const rows = numberedMemories(TENANTS, perTenant);
  for (let from = 0; from < rows.length; from += 5_000)
    await insertMemories(database.client, rows.slice(from, from + 5_000));
  await database.client.query('VACUUM ANALYZE core_pendingmemory');
  await database.client.query('CHECKPOINT');
  const started = performance.now();
  const sync = startSync(database, url);
  while (sync.counts.synced < rows.length) await delay(2);
  const seconds = (performance.now() - started) / 1000;
  await sync.stop();
  const { synced } = await countMemories(database.client);
  if (synced !== rows.length) throw new Error(`${synced} of ${rows.length} are synced`);
  return rows.length / seconds;
}
