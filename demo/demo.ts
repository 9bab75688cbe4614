// `npm run demo`: rows that a foreign program commits arrive in Kafka once and in order, although the worker is killed
// twice and Kafka is away for 20 seconds. Prints a report and exits with 0 only if it holds.
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { OrchestratorClient, type OutboxRelayStatus } from '../src/client.ts';
import { freePort } from '../stack/ports.ts';
import type { Stack } from '../stack/stack.ts';
import { createTestStack } from '../stack/testStack.ts';
import { WorkerProcess } from '../stack/workerProcess.ts';
import { readCommitted } from './reader.ts';
import { compare, printReport } from './report.ts';

const ROWS = 20_000;
const KEYS = 500;
const ROWS_PER_SECOND = 500;
const OUTAGE_SECONDS = 20;
const TOPIC = 'demo.orders';
const SHARDS = 2;
/** For a machine that is far too slow; the drain itself takes seconds. */
const PATIENCE_SECONDS = 300;

const began = Date.now();
const say = (line: string) =>
  console.log(`${((Date.now() - began) / 1000).toFixed(0).padStart(4)} s  ${line}`);

async function startWorker(stack: Stack): Promise<WorkerProcess> {
  const env = {
    ...stack.env(),
    SA01_OUTBOX_SHARDS: String(SHARDS),
    SA01_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
  };
  return new WorkerProcess({ env, logFile: `${stack.directory}/worker.log` });
}

/** Runs the foreign program; resolves to the number of rows that it committed for each key. */
async function write(databaseUrl: string): Promise<Map<string, number>> {
  const args = [databaseUrl, TOPIC, ROWS, KEYS, ROWS_PER_SECOND].map(String);
  const writer = spawn(process.execPath, ['demo/writer.ts', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  for await (const chunk of writer.stdout) output += chunk;
  if (output === '') throw new Error('the writer failed, see above');
  return new Map(Object.entries(JSON.parse(output) as Record<string, number>));
}

/** Kills the worker twice, each time with a successor in its place, and takes Kafka away once. */
async function disturb(stack: Stack, place: { worker: WorkerProcess }): Promise<void> {
  for (const pause of [8, 14]) {
    await sleep(pause * 1000);
    await place.worker.end('SIGKILL');
    say(`worker ${place.worker.process.pid} killed with -9`);
    place.worker = await startWorker(stack);
    say(`worker ${place.worker.process.pid} started`);
  }
  await sleep(3_000);
  await stack.stop(['kafka']);
  say(`Kafka stopped for ${OUTAGE_SECONDS} s`);
  await sleep(OUTAGE_SECONDS * 1000);
  await stack.start(['kafka']);
}

async function statuses(stack: Stack): Promise<OutboxRelayStatus[]> {
  const connection = await Connection.connect({ address: stack.env().SA01_TEMPORAL_HOST! });
  const orchestrator = new OrchestratorClient(new Client({ connection }));
  try {
    return await Promise.all(
      Array.from({ length: SHARDS }, (_, shard) => orchestrator.outboxRelay(shard).status()),
    );
  } finally {
    await connection.close();
  }
}

/** The relays report every ten seconds at most: waits until their totals are those of all rows. */
async function settledStatuses(stack: Stack): Promise<OutboxRelayStatus[]> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const told = await statuses(stack);
    const delivered = told.reduce((sum, { delivered_total }) => sum + delivered_total, 0);
    if (delivered === ROWS || Date.now() > deadline) return told;
    await sleep(500);
  }
}

async function run(stack: Stack): Promise<boolean> {
  await stack.start();
  const ui = `http://127.0.0.1:${stack.ports.temporalUi}/namespaces/default/workflows`;
  say(`watch the workflows while this runs: ${ui}`);
  await using reader = await readCommitted(stack.env().SA01_KAFKA_BOOTSTRAP_SERVERS!, TOPIC);
  const place = { worker: await startWorker(stack) };
  try {
    await place.worker.ready();
    say(`worker ${place.worker.process.pid} started; ${ROWS} rows with ${KEYS} keys are being written`);
    const writing = write(stack.env().SA01_DATABASE_URL!);
    await disturb(stack, place);
    const committed = await writing;
    say('all rows are written; waiting for the last to arrive');
    const deadline = Date.now() + PATIENCE_SECONDS * 1000;
    while (reader.received.length < ROWS && Date.now() < deadline) await sleep(100);
    const told = await settledStatuses(stack);
    // What arrives twice may arrive late.
    await reader.quiet();
    const comparison = compare(committed, reader.received);
    printReport({ comparison, statuses: told, seconds: (Date.now() - began) / 1000 });
    return comparison.holds;
  } finally {
    await place.worker.end('SIGTERM');
  }
}

await using stack = await createTestStack(say);
process.exitCode = (await run(stack)) ? 0 : 1;
