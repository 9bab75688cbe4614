import { setTimeout as delay } from 'node:timers/promises';
import { median, percentile, type Reporter } from '../report.ts';
import type { Connect } from './debezium/connect.ts';
import { debeziumDelivery } from './debezium/delivery.ts';
import { type Delivery, relayDelivery } from './delivery.ts';
import { type Consumer, consume, writeAndWait } from './latency.ts';
import { cpuSecondsOf, memoryOf } from './process.ts';

export interface VersusLatencyPlan {
  rates: number[];
  rounds: number;
  warmUpSeconds: number;
  seconds: number;
  idleRows: number;
}

type Contestants = Record<string, Delivery>;

interface Turn {
  reporter: Reporter;
  name: string;
  delivery: Delivery;
  consumer: Consumer;
  plan: VersusLatencyPlan;
  round: number;
}

/**
 * From the return of an INSERT's commit to the record in a read_committed consumer's hands, in turn. All processes are
 * up from the beginning to the end; whose turn it is not is stopped, so that it takes nothing from the other. One
 * consumer reads all topics.
 */
export async function measureLatencies(
  reporter: Reporter,
  connect: Connect,
  plan: VersusLatencyPlan,
): Promise<void> {
  await using undo = new AsyncDisposableStack();
  const contestants: Contestants = {
    relay_2_shards: undo.use(await relayDelivery(2)),
    relay_1_shard: undo.use(await relayDelivery(1)),
    debezium: undo.use(await debeziumDelivery(connect)),
  };
  const consumer = undo.use(await consume(Object.values(contestants).map(({ topic }) => topic)));
  for (let round = 1; round <= plan.rounds; round += 1) {
    const order = Object.entries(contestants);
    for (const [name, delivery] of round % 2 === 1 ? order : order.toReversed()) {
      await takeTurn({ reporter, name, delivery, consumer, plan, round });
    }
  }
  compareWithDebezium(reporter, plan);
}

async function takeTurn(turn: Turn): Promise<void> {
  const { delivery, consumer, plan } = turn;
  await delivery.resume();
  // Awake and warm, whatever a resumption costs.
  await writeAndWait({ deployment: delivery, consumer }, 20, 100);
  await measureIdle(turn);
  for (const rate of plan.rates) await measureAtRate(turn, rate);
  await delivery.stop();
}

/** Single rows with pauses in which a relay stops its busy polling and waits to be woken. */
async function measureIdle({ reporter, name, delivery, consumer, plan, round }: Turn): Promise<void> {
  const latencies = await writeAndWait({ deployment: delivery, consumer }, plan.idleRows, [1_000, 3_000]);
  reporter.emit(`latency_idle_${name}_p50`, median(latencies), 'ms', { rows: latencies.length, round });
  reporter.emit(`latency_idle_${name}_max`, Math.max(...latencies), 'ms', { rows: latencies.length, round });
  await delay(2_000);
  const before = cpuSecondsOf(delivery.pid);
  await delay(3_000);
  reporter.emit(`idle_cpu_${name}`, ((cpuSecondsOf(delivery.pid) - before) / 3) * 100, '% of a core', {
    round,
  });
  reporter.emit(`memory_${name}`, memoryOf(delivery.pid).now, 'MiB', { round });
}

async function measureAtRate(
  { reporter, name, delivery, consumer, plan, round }: Turn,
  rate: number,
): Promise<void> {
  const rows = rate * (plan.warmUpSeconds + plan.seconds);
  const cpuBefore = cpuSecondsOf(delivery.pid);
  const written = await writeAndWait({ deployment: delivery, consumer }, rows, 1000 / rate);
  const cpu = (cpuSecondsOf(delivery.pid) - cpuBefore) * 1e6;
  const latencies = written.slice(rate * plan.warmUpSeconds);
  const fields = { rows: latencies.length, rate, round };
  for (const share of [0.5, 0.99]) {
    const which = `latency_${rate}_per_s_${name}_p${share * 100}`;
    reporter.emit(which, percentile(latencies, share), 'ms', fields);
  }
  reporter.emit(`cpu_per_row_${rate}_per_s_${name}`, cpu / rows, 'µs', fields);
}

function compareWithDebezium(reporter: Reporter, { rates }: VersusLatencyPlan): void {
  for (const relay of ['relay_2_shards', 'relay_1_shard']) {
    for (const load of [...rates.map((rate) => `${rate}_per_s`), 'idle']) {
      const to = `latency_${load}_debezium`;
      reporter.compare(`latency_${load}_${relay}_p50`, `${to}_p50`, 'the goal is 0.5 or less');
      reporter.compare(`latency_${load}_${relay}_p99`, `${to}_p99`, 'the goal is 0.25 or less');
    }
  }
}
