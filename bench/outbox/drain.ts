import type { Reporter } from '../report.ts';
import { cpuSecondsOf, memoryOf } from './process.ts';
import { delivered, fillOutbox, publishedPerSecond, untilDelivered } from './rows.ts';
import { relayDeployment } from './workers.ts';

/** Drains `rows` pending rows by one real worker process, with each number of shards in turn. */
export async function measureDrain(
  reporter: Reporter,
  { rows, rounds, shardCounts }: { rows: number; rounds: number; shardCounts: number[] },
): Promise<void> {
  for (let round = 1; round <= rounds; round += 1) {
    // There and back again, so that a machine that gets slower or faster favours none of them.
    const order = round % 2 === 1 ? shardCounts : shardCounts.toReversed();
    for (const shards of order) await drainOnce(reporter, { rows, round, shards });
  }
  reporter.compare('drain_2_shards', 'drain_1_shards', 'what a second shard brings');
  reporter.compare('drain_4_shards', 'drain_2_shards', 'what four shards bring over two');
}

async function drainOnce(
  reporter: Reporter,
  { rows, round, shards }: { rows: number; round: number; shards: number },
): Promise<void> {
  await using deployment = await relayDeployment(shards);
  const { client } = deployment.database;
  await fillOutbox(client, deployment.topic, rows);
  const worker = await deployment.start();
  const pid = worker.process.pid!;
  const atReady = { time: performance.now(), cpu: cpuSecondsOf(pid), rows: await delivered(client) };
  await untilDelivered(client, rows);
  const cpuPerRow = ((cpuSecondsOf(pid) - atReady.cpu) * 1e6) / (rows - atReady.rows);
  const wallSeconds = (performance.now() - atReady.time) / 1000;

  const fields = { shards, rows, round };
  reporter.emit(`drain_${shards}_shards`, await publishedPerSecond(client), 'rows/s', fields);
  reporter.emit(`drain_${shards}_shards_from_ready`, wallSeconds, 's', fields);
  const { now, peak } = memoryOf(pid);
  reporter.emit(`drain_${shards}_shards_cpu_per_row`, cpuPerRow, 'µs', fields);
  reporter.emit(`memory_after_drain_${shards}_shards`, now, 'MiB', fields);
  reporter.emit(`memory_peak_${shards}_shards`, peak, 'MiB', fields);
  await worker.end();
}
