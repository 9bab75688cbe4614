import type { Journal, Mark } from '../../src/domain/outboxTakeover.ts';

/**
 * A model of the takeover protocol, small enough to try every interleaving of its steps. This file is the world that
 * relays share: Postgres and Kafka, with each request that they carry out as a whole as one function.
 *
 *   relay A ─┐   relay.ts, takeover.ts, delivery.ts:      ┌─▶ Postgres: rows, journal
 *   relay B ─┼─▶ the program of src/activities/         ──┤
 *   relay C ─┘   outboxRelay.ts, step by step             └─▶ Kafka: log, producers, offsets
 *                                                              ▲ markers, offsets, timeouts: by itself, at any moment
 *   explore.ts tries, from each state, each step that any of them can take next. faults.ts looks at each state that
 *   is reached, and lets a fresh relay run from there to the end. mutants.ts leaves mechanisms out.
 *
 * A relay that is killed is one that takes no further step, a zombie is one that takes it late, and a request that is
 * still on its way is a step that has not been taken yet. Since any error ends a relay's run, and a relay that ends
 * sends nothing more, a lost answer is a step taken and then no other. So all of these are among the interleavings.
 *
 * What is taken for granted, because Postgres and Kafka promise it: a transaction of Postgres is one step; Kafka
 * checks the producer's epoch in every request, commits records and offset together, and applies offsets in order.
 */
export interface World {
  /** The status of row 1, 2, … in the order of insertion; a row that is not inserted yet is missing. */
  rows: readonly Status[];
  journal: Journal & { epoch: number };
  /** How many batches were ever opened; the number of the opening stands for the batch's random id. */
  opened: number;
  /** One partition: records in the order of writing. Those of an aborted transaction are taken out. */
  log: readonly LogRecord[];
  /** What the transaction coordinator knows of each transactional id. */
  producers: readonly Producer[];
  /** Offset commits that Kafka has confirmed and not applied yet. */
  unapplied: readonly OffsetCommit[];
  /** What a reader of the group's offsets gets. */
  mark: Mark | undefined;
  barrier: string | undefined;
  /** How many more batches Kafka may reject. */
  rejections: number;
}

export type Status = 'pending' | 'failed' | 'published';

export interface LogRecord {
  seq: string;
  /** The producer whose transaction it belongs to, null once that is committed. */
  producer: number | null;
}

export interface OffsetCommit {
  mark?: Mark;
  barrier?: string;
}

/**
 *     initialised ─▶ complete ──begin──▶ ongoing ──commit──▶ prepared ──markers──▶ complete
 *                        ▲                  │
 *                        └──────────────────┘ aborted by its age or by a newer producer, which raises the epoch
 */
export interface Producer {
  epoch: number;
  state: 'complete' | 'ongoing' | 'prepared';
  /** The offset of the transaction that is ongoing or prepared. */
  offset: OffsetCommit | undefined;
  /** The sequence numbers of the last records in this epoch. */
  last: { first: number; next: number };
}

/** Whom a relay believes to be: a transactional id, and the epoch that it was given. */
export interface ProducerHandle {
  id: number;
  epoch: number;
  /** The sequence number of the next record, as the client counts. */
  sequence: number;
}

export interface Batch {
  number: number;
  batchId: string;
  seqs: string[];
}

export const newWorld = (rows: number, rejections: number): World => ({
  rows: Array.from({ length: rows }, () => 'pending' as const),
  journal: { epoch: 0, settled: { number: 0, batchId: null }, open: null },
  opened: 0,
  log: [],
  producers: [],
  unapplied: [],
  mark: undefined,
  barrier: undefined,
  rejections,
});

// All functions put new parts in place of old ones and change none, so that a copy of a world is a copy of its top.

// ── Postgres ──

export function setRows(world: World, seqs: string[], from: Status, to: Status): void {
  world.rows = world.rows.map((status, index) =>
    status === from && seqs.includes(String(index + 1)) ? to : status,
  );
}

export const pendingAmong = ({ rows }: World, seqs: string[]): string[] =>
  seqs.filter((seq) => rows[Number(seq) - 1] === 'pending');

/** The next pending rows in order, without those that an earlier, failed row of their key holds back. */
export function claimRows({ rows }: World, keys: string[], limit: number, holdBack = true): string[] {
  const held = new Set<string>();
  const due: string[] = [];
  for (const [index, status] of rows.entries()) {
    const key = keys[index]!;
    if (status === 'failed' && holdBack) held.add(key);
    if (status === 'pending' && !held.has(key)) due.push(String(index + 1));
  }
  return due.slice(0, limit);
}

/** Writes a batch into the journal, if there are rows for one. */
export function openBatch(world: World, number: number, seqs: string[]): Batch | undefined {
  if (seqs.length === 0) return undefined;
  world.opened += 1;
  const batch = { number, batchId: `b${world.opened}`, seqs };
  world.journal = { ...world.journal, open: batch };
  return batch;
}

export function settleBatch(world: World, { number, batchId, seqs }: Batch): void {
  setRows(world, seqs, 'pending', 'published');
  world.journal = { ...world.journal, settled: { number, batchId }, open: null };
}

// ── Kafka ──

/** 'wait': the markers of the last transaction are not written yet (CONCURRENT_TRANSACTIONS), ask again. */
export type Answer = 'done' | 'fenced' | 'wait';

const UNUSED = { first: 0, next: 0 };

function setProducer(world: World, id: number, change: Partial<Producer>): void {
  world.producers = world.producers.map((producer, at) =>
    at === id ? { ...producer, ...change } : producer,
  );
}

/** Aborts what the last producer of this id left open, and fences it. A prepared commit is completed first. */
export function initialiseProducer(world: World, id: number): ProducerHandle | 'wait' {
  const last = world.producers[id];
  if (last?.state === 'prepared') return 'wait';
  const epoch = (last?.epoch ?? 0) + 1;
  if (last) abortTransaction(world, id);
  else world.producers = [...world.producers, { epoch, state: 'complete', offset: undefined, last: UNUSED }];
  setProducer(world, id, { epoch, last: UNUSED });
  return { id, epoch, sequence: 0 };
}

export const isCurrent = ({ producers }: World, { id, epoch }: ProducerHandle): boolean =>
  producers[id]!.epoch === epoch;

/** The first request of a transaction is its offset, which is committed with the records or not at all. */
export function beginTransaction(
  world: World,
  handle: ProducerHandle,
  offset: OffsetCommit | undefined,
): Answer {
  if (!isCurrent(world, handle)) return 'fenced';
  if (world.producers[handle.id]!.state === 'prepared') return 'wait';
  setProducer(world, handle.id, { state: 'ongoing', offset });
  return 'done';
}

/** Kafka takes a second batch of the same sequence numbers for a repetition, and confirms it without writing it. */
export function appendRecords(world: World, handle: ProducerHandle, seqs: string[]): Answer {
  if (!isCurrent(world, handle)) return 'fenced';
  const { last } = world.producers[handle.id]!;
  const [first, next] = [handle.sequence, handle.sequence + seqs.length];
  if (first === last.first && next === last.next) return 'done';
  if (first !== last.next) return 'fenced';
  world.log = [...world.log, ...seqs.map((seq) => ({ seq, producer: handle.id }))];
  setProducer(world, handle.id, { last: { first, next } });
  return 'done';
}

/** From here on the transaction is committed, whatever happens; readers of its offset learn of it later. */
export function commitTransaction(world: World, handle: ProducerHandle): Answer {
  if (!isCurrent(world, handle)) return 'fenced';
  world.log = world.log.map((record) =>
    record.producer === handle.id ? { ...record, producer: null } : record,
  );
  setProducer(world, handle.id, { state: 'prepared' });
  return 'done';
}

/** A transaction of one offset and nothing else. Interrupted half-way it leaves no trace, so it is one step. */
export function commitOffset(world: World, handle: ProducerHandle, offset: OffsetCommit): Answer {
  const answer = beginTransaction(world, handle, offset);
  return answer === 'done' ? commitTransaction(world, handle) : answer;
}

export function abortTransaction(world: World, id: number): void {
  world.log = world.log.filter(({ producer }) => producer !== id);
  setProducer(world, id, { state: 'complete', offset: undefined });
}

// ── What happens by itself, at any moment; false: not now ──

export function insertRow(world: World, rows: number): boolean {
  if (world.rows.length === rows) return false;
  world.rows = [...world.rows, 'pending'];
  return true;
}

/** The time of a parked row's next attempt comes. */
export function retryRow(world: World, index: number): boolean {
  if (world.rows[index] !== 'failed') return false;
  world.rows = world.rows.with(index, 'pending');
  return true;
}

/** The coordinator tells everybody of a prepared commit. */
export function writeMarkers(world: World): boolean {
  const id = world.producers.findIndex(({ state }) => state === 'prepared');
  if (id < 0) return false;
  const { offset } = world.producers[id]!;
  if (offset) world.unapplied = [...world.unapplied, offset];
  setProducer(world, id, { state: 'complete', offset: undefined });
  return true;
}

/** Only now do readers of the group's offsets see it. */
export function applyOffset(world: World): boolean {
  const [next, ...later] = world.unapplied;
  if (!next) return false;
  world.unapplied = later;
  world.mark = next.mark ?? world.mark;
  world.barrier = next.barrier ?? world.barrier;
  return true;
}

/** A transaction that stays open for too long is aborted, and its producer fenced. */
export function timeOut(world: World): boolean {
  const id = world.producers.findIndex(({ state }) => state === 'ongoing');
  if (id < 0) return false;
  const { epoch } = world.producers[id]!;
  abortTransaction(world, id);
  setProducer(world, id, { epoch: epoch + 1, last: UNUSED });
  return true;
}
