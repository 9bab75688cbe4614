import type { Bench, BenchRun } from '../report.ts';
import { measureBacklog } from './backlog.ts';
import { measureDrain } from './drain.ts';
import { measureFlood } from './flood.ts';
import { measureLatency } from './latency.ts';
import { measureLimits } from './limits.ts';
import { measureSoak } from './soak.ts';
import { warmUpKafka } from './topics.ts';
import { measureVersus } from './versus.ts';

/** How the outbox relay does: see bench/README.md for what each measurement means. */
export const outbox: Bench = {
  about: 'the outbox relay: drain rate, commit-to-consume latency, raw limits, memory',
  parts: ['limits', 'drain', 'latency', 'versus', 'backlog', 'flood'],
  onDemand: ['soak'],
  run,
};

async function run({ reporter, quick, parts }: BenchRun): Promise<void> {
  await warmUpKafka();
  if (parts.includes('limits')) {
    await measureLimits(reporter, quick ? { rows: 10_000, rounds: 1 } : { rows: 30_000, rounds: 2 });
  }
  if (parts.includes('drain')) {
    const shardCounts = [2, 1, 4];
    await measureDrain(
      reporter,
      quick ? { rows: 20_000, rounds: 1, shardCounts } : { rows: 100_000, rounds: 2, shardCounts },
    );
  }
  if (parts.includes('latency')) {
    const common = { shardCounts: [1, 2], rates: [200, 500] };
    await measureLatency(
      reporter,
      quick
        ? { ...common, rounds: 1, warmUpSeconds: 1, seconds: 3, idleRows: 4 }
        : { ...common, rounds: 2, warmUpSeconds: 3, seconds: 10, idleRows: 20 },
    );
  }
  if (parts.includes('versus')) {
    const latency = { rates: [200, 500] };
    await measureVersus(
      reporter,
      quick
        ? {
            drain: { rows: 20_000, rounds: 1 },
            latency: { ...latency, rounds: 1, warmUpSeconds: 1, seconds: 3, idleRows: 4 },
          }
        : {
            drain: { rows: 200_000, rounds: 3 },
            latency: { ...latency, rounds: 5, warmUpSeconds: 2, seconds: 6, idleRows: 6 },
          },
    );
  }
  if (parts.includes('backlog')) {
    await measureBacklog(
      reporter,
      quick
        ? { rows: 20_000, deep: 200_000, parked: [1_000, 10_000], rounds: 1 }
        : { rows: 100_000, deep: 5_000_000, parked: [10_000, 100_000], rounds: 3 },
    );
  }
  if (parts.includes('flood')) {
    await measureFlood(
      reporter,
      quick ? { rejected: 1_000, rate: 200, seconds: 8 } : { rejected: 10_000, rate: 200, seconds: 60 },
    );
  }
  if (parts.includes('soak')) {
    await measureSoak(reporter, quick ? { minutes: 1, rate: 500 } : { minutes: 20, rate: 500 });
  }
}
