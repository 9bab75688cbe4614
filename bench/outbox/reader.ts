// The reader of the side-by-side drains, as its own process so that no contender shares its event loop. Reads a topic as
// a read_committed consumer does and tells how long the expected records took.
import { type ChildProcess, fork } from 'node:child_process';
import { on, once } from 'node:events';
import type { KafkaMessage } from 'kafkajs';
import { testKafka } from '../../test/support/kafka.ts';
import { monotonicMs } from './writer.ts';

export interface ReaderTask {
  topic: string;
  rows: number;
}

/**
 * The clock starts when a quarter of the records has come: what a contestant has read ahead before its first record
 * came through is no speed, and its first steps are no slowness.
 */
export interface Reading {
  seconds: number;
  /** Records that came in that time. */
  timed: number;
  records: number;
  distinct: number;
  transactional: number;
}

type News = { ready: true } | { started: true } | { reading: Reading };

/** A running reader process; `ready` already when it is returned. */
export interface Reader extends AsyncDisposable {
  /** The clock runs. */
  started: Promise<void>;
  reading: Promise<Reading>;
}

export async function openReader(task: ReaderTask): Promise<Reader> {
  const child = fork(import.meta.filename, [JSON.stringify(task)]);
  const ended = once(child, 'exit').then(([code]) => Promise.reject(new Error(`the reader ended: ${code}`)));
  ended.catch(() => {});
  const told = <T>(pick: (news: News) => T | undefined): Promise<T> =>
    Promise.race([firstOf(child, pick), ended]);
  const ready = told((news) => ('ready' in news ? true : undefined));
  const started = told((news) => ('started' in news ? true : undefined)).then(() => {});
  const reading = told((news) => ('reading' in news ? news.reading : undefined));
  for (const promise of [started, reading]) promise.catch(() => {});
  await ready;
  return {
    started,
    reading,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit');
    },
  };
}

async function firstOf<T>(child: ChildProcess, pick: (news: News) => T | undefined): Promise<T> {
  for await (const [news] of on(child, 'message')) {
    const picked = pick(news as News);
    if (picked !== undefined) return picked;
  }
  throw new Error('the reader said nothing');
}

async function read({ topic, rows }: ReaderTask): Promise<void> {
  const tell = (news: News) => process.send!(news);
  const ids = new Set<string>();
  const reading: Reading = { seconds: 0, timed: 0, records: 0, distinct: 0, transactional: 0 };
  let startedAt: number | undefined;
  const consumer = testKafka().consumer({ groupId: topic, maxWaitTimeInMs: 10, readUncommitted: false });
  consumer.on(consumer.events.GROUP_JOIN, () => tell({ ready: true }));
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch: { messages } }) => {
      const now = monotonicMs();
      reading.records += messages.length;
      if (startedAt !== undefined) {
        reading.timed += messages.length;
        reading.seconds = (now - startedAt) / 1000;
      } else if (reading.records >= rows / 4) {
        startedAt = now;
        tell({ started: true });
      }
      for (const message of messages) {
        ids.add(String(message.headers?.message_id ?? message.headers?.id));
        if (inTransaction(message)) reading.transactional += 1;
      }
      reading.distinct = ids.size;
      if (reading.records >= rows) tell({ reading });
    },
  });
}

/** By the flag of its record batch, which kafkajs decodes and does not tell in its types. */
const inTransaction = (message: KafkaMessage): boolean =>
  (message as KafkaMessage & { batchContext: { inTransaction: boolean } }).batchContext.inTransaction;

if (import.meta.main) await read(JSON.parse(process.argv[2]!) as ReaderTask);
