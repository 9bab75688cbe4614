import { outboxDatabase, type TestDatabase } from '../../test/support/database.ts';
import { testStack } from '../../test/support/stack.ts';
import type { Reporter } from '../report.ts';
import type { Connect } from './debezium/connect.ts';
import { debeziumDelivery } from './debezium/delivery.ts';
import { type Delivery, relayDelivery } from './delivery.ts';
import { plainLoop, relayAlone, type Setting } from './limits.ts';
import { cpuSecondsOf, cpuSecondsOfFamily, memoryOf } from './process.ts';
import { openReader, type Reading } from './reader.ts';
import { fillOutbox } from './rows.ts';
import { newTopic } from './topics.ts';

export interface VersusDrainPlan {
  rows: number;
  rounds: number;
}

/** Writers commit a few rows at a time; one transaction of them all would go through logical decoding's files. */
const ROWS_PER_TRANSACTION = 100;
const SHARDS = 2;

interface Contestant {
  pid: number;
  /** `undo` ends or stops what has begun. */
  prepare(undo: AsyncDisposableStack, drain: { topic: string; rows: number }): Promise<Prepared>;
}

interface Prepared {
  database: TestDatabase;
  /** Lets it go; where it runs in this process, until it is done. */
  begin(): Promise<unknown>;
}

/**
 * The rate of each at a read_committed reader in a process of its own, after the first quarter of the rows. Whoever is
 * measured has drained as many rows before, for compilers need that long, Java's most of all; those first drains are
 * told apart.
 */
export async function measureDrains(
  reporter: Reporter,
  connect: Connect,
  { rows, rounds }: VersusDrainPlan,
): Promise<void> {
  await using undo = new AsyncDisposableStack();
  const contestants: [name: string, Contestant][] = [
    ['relay', inItsTurn(undo.use(await relayDelivery(SHARDS)))],
    ['relay_without_temporal', inThisProcess(relayAlone)],
    ['loop_without_journal', inThisProcess(plainLoop)],
    ['debezium', inItsTurn(undo.use(await debeziumDelivery(connect)))],
  ];
  for (const [name, contestant] of contestants) {
    const { drain } = await drainOnce(name, contestant, rows);
    reporter.emit(`first_drain_${name}`, drain.value, drain.unit, { rows });
  }
  for (let round = 1; round <= rounds; round += 1) {
    for (const [name, contestant] of round % 2 === 1 ? contestants : contestants.toReversed()) {
      const figures = await drainOnce(name, contestant, rows);
      for (const [what, { value, unit }] of Object.entries(figures))
        reporter.emit(`${what}_${name}`, value, unit, { rows, round });
    }
  }
  reporter.compare('drain_relay', 'drain_debezium', 'the relay against Debezium: the goal is 1.2');
  reporter.compare('first_drain_relay', 'first_drain_debezium', 'the same of processes just started');
  reporter.compare('drain_relay_without_temporal', 'drain_loop_without_journal', 'and the raw loop: 0.8');
  reporter.compare('cpu_per_row_relay', 'cpu_per_row_debezium', 'processor time, worker against Connect');
  reporter.compare('cpu_per_row_in_all_relay', 'cpu_per_row_in_all_debezium', 'and with Postgres and Kafka');
}

/** It runs all the time, and goes on as it was: with a warm process and a table that keeps what it has delivered. */
const inItsTurn = ({ database, pid, stop, resume }: Delivery): Contestant => ({
  pid,
  async prepare(undo) {
    undo.defer(stop);
    return { database, begin: resume };
  },
});

const inThisProcess = (run: (setting: Setting) => Promise<number>): Contestant => ({
  pid: process.pid,
  async prepare(undo, drain) {
    const database = undo.use(await outboxDatabase(1));
    return { database, begin: () => run({ database, ...drain }) };
  },
});

interface Figure {
  value: number;
  unit: string;
}

type Figures = { drain: Figure } & Record<string, Figure>;

async function drainOnce(name: string, { pid, prepare }: Contestant, rows: number): Promise<Figures> {
  await using undo = new AsyncDisposableStack();
  const topic = await newTopic();
  const { database, begin } = await prepare(undo, { topic, rows });
  await fillOutbox(database.client, topic, rows, ROWS_PER_TRANSACTION);
  const reader = undo.use(await openReader({ topic, rows }));
  const work = begin();
  // Before the reader has read all it ends only with an error.
  const unlessItFails = <T>(promise: Promise<T>) => Promise.race([promise, work.then(() => promise)]);
  await unlessItFails(reader.started);
  const usedBefore = cpuSeconds(pid);
  const reading = await unlessItFails(reader.reading);
  const used = cpuSeconds(pid, usedBefore);
  await work;
  expectExactlyOnce(name, reading, rows);
  // What it leaves to clean up must not fall into another's turn.
  await database.client.query('VACUUM ANALYZE core_outboxmessage');
  return figuresOf(reading, used, pid);
}

/** Of the contestant itself and of the services. */
interface CpuSeconds {
  own: number;
  postgres: number;
  kafka: number;
}

function cpuSeconds(pid: number, before: CpuSeconds = { own: 0, postgres: 0, kafka: 0 }): CpuSeconds {
  const stack = testStack();
  return {
    own: cpuSecondsOf(pid) - before.own,
    postgres: cpuSecondsOfFamily(stack.pid('postgres')!) - before.postgres,
    kafka: cpuSecondsOfFamily(stack.pid('kafka')!) - before.kafka,
  };
}

function figuresOf({ seconds, timed }: Reading, used: CpuSeconds, pid: number): Figures {
  const perRow = (cpuSeconds: number): Figure => ({ value: (cpuSeconds * 1e6) / timed, unit: 'µs' });
  const figures: Figures = {
    drain: { value: timed / seconds, unit: 'rows/s' },
    cpu_per_row: perRow(used.own),
    cpu_per_row_in_postgres: perRow(used.postgres),
    cpu_per_row_in_kafka: perRow(used.kafka),
    cpu_per_row_in_all: perRow(used.own + used.postgres + used.kafka),
  };
  // This process is the benchmark as well.
  if (pid !== process.pid) figures.memory_after_drain = { value: memoryOf(pid).now, unit: 'MiB' };
  return figures;
}

/** A comparison with something that sends less, twice or outside of transactions would be worth nothing. */
function expectExactlyOnce(name: string, { records, distinct, transactional }: Reading, rows: number): void {
  if (records === rows && distinct === rows && transactional === rows) return;
  const found = `${records} records, ${distinct} different ones, ${transactional} in transactions`;
  throw new Error(`${name} was to deliver ${rows} rows exactly once, and the reader found ${found}`);
}
