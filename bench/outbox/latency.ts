import { fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { eventually } from '../../test/support/eventually.ts';
import { testKafka } from '../../test/support/kafka.ts';
import { percentile, type Reporter } from '../report.ts';
import { cpuSecondsOf, memoryOf } from './process.ts';
import { type RelayDeployment, relayDeployment } from './workers.ts';
import { type Commits, monotonicMs, type WriterTask } from './writer.ts';

export interface LatencyPlan {
  shardCounts: number[];
  rates: number[];
  rounds: number;
  warmUpSeconds: number;
  seconds: number;
  idleRows: number;
}

/** From a table to whoever reads its topic. */
export interface Route {
  deployment: Pick<RelayDeployment, 'database' | 'topic'>;
  consumer: Consumer;
}

interface Target extends Route {
  shards: number;
  pid: number;
}

/**
 * From the return of an INSERT's commit to the record in a read_committed consumer's hands. One worker for each number
 * of shards, all of them up from the beginning to the end, so that windows of one alternate with windows of another;
 * a worker without rows costs the same in each window (see `idle_cpu`).
 */
export async function measureLatency(reporter: Reporter, plan: LatencyPlan): Promise<void> {
  await using undo = new AsyncDisposableStack();
  const targets: Target[] = [];
  for (const shards of plan.shardCounts) targets.push(await openTarget(undo, shards));
  for (const target of targets) await measureAtRest(reporter, target);
  await Promise.all(targets.map((target) => measureIdle(reporter, target, plan.idleRows)));
  for (const rate of plan.rates) {
    const collected = new Map<Target, number[]>(targets.map((target) => [target, []]));
    for (let round = 1; round <= plan.rounds; round += 1) {
      for (const target of round % 2 === 1 ? targets : targets.toReversed()) {
        collected.get(target)!.push(...(await measureAtRate(reporter, target, { plan, rate, round })));
      }
    }
    for (const [{ shards }, latencies] of collected) {
      report(reporter, `latency_${rate}_per_s_${shards}_shards`, latencies, [0.5, 0.99, 1]);
    }
    reporter.compare(
      `latency_${rate}_per_s_2_shards_p50`,
      `latency_${rate}_per_s_1_shards_p50`,
      'what a second shard costs the median',
    );
    reporter.compare(
      `latency_${rate}_per_s_2_shards_p99`,
      `latency_${rate}_per_s_1_shards_p99`,
      'and the 99th percentile',
    );
  }
}

async function openTarget(undo: AsyncDisposableStack, shards: number): Promise<Target> {
  const deployment = undo.use(await relayDeployment(shards));
  const worker = await deployment.start();
  const consumer = undo.use(await consume([deployment.topic]));
  return { shards, deployment, pid: worker.process.pid!, consumer };
}

/** The worker without a row to deliver. */
async function measureAtRest(reporter: Reporter, { shards, pid }: Target): Promise<void> {
  await delay(2_000);
  const seconds = 5;
  const before = cpuSecondsOf(pid);
  await delay(seconds * 1000);
  reporter.emit(`idle_cpu_${shards}_shards`, ((cpuSecondsOf(pid) - before) / seconds) * 100, '% of a core');
  reporter.emit(`memory_idle_${shards}_shards`, memoryOf(pid).now, 'MiB', { shards });
}

/** Single rows with pauses in which the relay stops its busy polling and waits to be woken. */
async function measureIdle(reporter: Reporter, target: Target, rows: number): Promise<void> {
  const latencies = await writeAndWait(target, rows, [1_000, 3_000]);
  // The first row creates the topic's place in the relay's and the consumer's caches.
  report(reporter, `latency_idle_${target.shards}_shards`, latencies.slice(1), [0.5, 1]);
}

async function measureAtRate(
  reporter: Reporter,
  target: Target,
  { plan, rate, round }: { plan: LatencyPlan; rate: number; round: number },
): Promise<number[]> {
  const { shards, pid } = target;
  const cpuBefore = cpuSecondsOf(pid);
  const started = performance.now();
  const rows = rate * (plan.warmUpSeconds + plan.seconds);
  const latencies = (await writeAndWait(target, rows, 1000 / rate)).slice(rate * plan.warmUpSeconds);
  const seconds = (performance.now() - started) / 1000;
  const cpu = ((cpuSecondsOf(pid) - cpuBefore) / seconds) * 100;
  reporter.emit(`cpu_${rate}_per_s_${shards}_shards`, cpu, '% of a core', { shards, rate, round });
  return latencies;
}

/** The latency of each row in milliseconds, in the order in which they were written. */
export async function writeAndWait(
  { deployment: { database, topic }, consumer: { seen } }: Route,
  rows: number,
  pauseMs: WriterTask['pauseMs'],
): Promise<number[]> {
  seen.clear();
  const commits = await runWriter({ url: database.url, topic, rows, pauseMs });
  await eventually('all rows consumed', () => commits.every(([id]) => seen.has(id)));
  // The consumer may be told before the writer is.
  return commits.map(([id, at]) => Math.max(0, seen.get(id)! - at));
}

async function runWriter(task: WriterTask): Promise<Commits> {
  const file = path.join(import.meta.dirname, 'writer.ts');
  const child = fork(file, [JSON.stringify(task)]);
  const failed = once(child, 'exit').then(([code]) => Promise.reject(new Error(`the writer ended: ${code}`)));
  failed.catch(() => {});
  const [commits] = await Promise.race([once(child, 'message'), failed]);
  return commits as Commits;
}

function report(reporter: Reporter, name: string, latencies: number[], shares: number[]): void {
  for (const share of shares) {
    const which = share === 1 ? 'max' : `p${share * 100}`;
    reporter.emit(`${name}_${which}`, percentile(latencies, share), 'ms', { rows: latencies.length });
  }
}

export interface Consumer extends AsyncDisposable {
  /** When each message, by id, arrived. */
  seen: Map<string, number>;
}

/** Asks again after 10 ms without news, so its own wait is a small part of what is measured. */
export async function consume(topics: string[]): Promise<Consumer> {
  const kafka = testKafka();
  const seen = new Map<string, number>();
  const consumer = kafka.consumer({ groupId: topics[0]!, maxWaitTimeInMs: 10, readUncommitted: false });
  await consumer.connect();
  await consumer.subscribe({ topics, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      const now = monotonicMs();
      // Debezium's router calls it id.
      for (const { headers } of batch.messages) seen.set(String(headers?.message_id ?? headers?.id), now);
    },
  });
  return { seen, [Symbol.asyncDispose]: () => consumer.disconnect() };
}
