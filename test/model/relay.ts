import type { Journal, Mark } from '../../src/domain/outboxTakeover.ts';
import type { Answer, Batch, ProducerHandle, World } from './world.ts';

/**
 * One run of a relay: what it remembers, and the step that it takes next.
 *
 *   raiseEpoch ─▶ initialise ─▶ beginBarrier ─▶ commitBarrier ─▶ readMark ─▶ readJournal
 *                     ▲                                                          │ decide
 *                     │           ┌────────────┬────────────────┬────────────────┤
 *                     │         begin       proceed          settle           resend
 *                     │           ▼            ▼                ▼                ▼
 *                     │       firstMark ──▶ claim ◀──── settleTakenOver       reload ──▶ begin
 *                     │                     │   ▲                                └─▶ abandon ─▶ claim
 *            rejected │                     ▼   │ nothing to send                  (if it was rejected)
 *                   send ◀── begin ◀──── open   │
 *                     │        ▲                │
 *                     └─▶ commit ──▶ settleAndOpen
 *
 * A batch that is refused before anything of it is sent goes from begin to abandon.
 */
export interface Relay {
  name: string;
  next: Place | 'nothing';
  epoch: number | undefined;
  producer: ProducerHandle | undefined;
  mark: Mark | undefined;
  journal: Journal | undefined;
  /** The number of the last settled batch, as this relay knows it. */
  settled: number;
  /** The batch under way; claimed rows have no batch id until they are opened. */
  batch: Batch | undefined;
  limit: number;
  /** Kafka rejected the batch that is open. */
  rejected: boolean;
  /** A key that Kafka is known to refuse; its next row is parked without being sent. */
  condemned: string | undefined;
  /** Why it stopped the shard. */
  contradiction: string | undefined;
}

export type TakeoverStep =
  | 'raiseEpoch'
  | 'initialise'
  | 'beginBarrier'
  | 'commitBarrier'
  | 'readMark'
  | 'readJournal';

export type Place =
  | TakeoverStep
  | 'firstMark'
  | 'settleTakenOver'
  | 'reload'
  | 'abandon'
  | 'claim'
  | 'open'
  | 'begin'
  | 'send'
  | 'commit'
  | 'markAlone'
  | 'settleAndOpen';

export const TAKEOVER: readonly TakeoverStep[] = [
  'raiseEpoch',
  'initialise',
  'beginBarrier',
  'commitBarrier',
  'readMark',
  'readJournal',
];

/** What a mutant may leave out, apart from the order of its takeover. */
export type Mechanism =
  | 'journal'
  | 'epoch'
  | 'number and open batch'
  | 'checks when settling'
  | 'fencing in Kafka'
  | 'mark in the transaction'
  | 'batch id'
  | 'first mark'
  | 'fresh producer after an error'
  | 'asking Kafka before abandoning'
  | 'the same rows when resending'
  | 'acknowledgements'
  | 'holding back';

export interface Protocol {
  takeover: readonly TakeoverStep[];
  without: Mechanism | undefined;
  /** The key of each row, in the order of insertion. */
  keys: string[];
  /** Rows of a batch at most. */
  limit: number;
}

/** Changes world and relay and says what happened. Undefined: not now, the relay waits. */
export type Step = (world: World, relay: Relay, protocol: Protocol) => string | undefined;

export const newRelay = (name: string, { takeover, limit }: Protocol): Relay => ({
  name,
  next: takeover[0]!,
  epoch: undefined,
  producer: undefined,
  mark: undefined,
  journal: undefined,
  settled: 0,
  batch: undefined,
  limit,
  rejected: false,
  condemned: undefined,
  contradiction: undefined,
});

/** A token of its own for each initialisation. */
export const barrierToken = ({ producer }: Relay): string => `${producer!.id}.${producer!.epoch}`;

// What Postgres checks in each write, and what a relay does when it is refused: it leaves.

export const holdsEpoch = ({ journal }: World, { epoch }: Relay, { without }: Protocol): boolean =>
  without === 'epoch' || journal.epoch === epoch;

/** `settled` is the batch that the journal must have open; undefined: it must have none, and the relay's number. */
export function mayAdvance(world: World, relay: Relay, protocol: Protocol, settled?: Batch): boolean {
  const { without } = protocol;
  if (without === 'checks when settling' && settled) return true;
  if (!holdsEpoch(world, relay, protocol)) return false;
  if (without === 'number and open batch' || without === 'journal') return true;
  const { journal } = world;
  const from = settled ? settled.number - 1 : relay.settled;
  return journal.settled.number === from && journal.open?.batchId === settled?.batchId;
}

export function refusedByPostgres(relay: Relay, what: string): string {
  relay.next = 'nothing';
  return `${relay.name} is refused by Postgres ${what}, and leaves`;
}

export function refusedByKafka(relay: Relay, answer: Answer, what: string): string | undefined {
  if (answer === 'wait') return undefined;
  relay.next = 'nothing';
  return `${relay.name} is refused by Kafka ${what}, and leaves`;
}

export function described({ number, batchId, seqs }: Mark & { seqs?: string[] }): string {
  if (number === 0) return '0 (nothing sent yet)';
  return seqs ? `${number} (${batchId}: ${listed(seqs)})` : `${number} (${batchId})`;
}

export const listed = (seqs: string[]): string =>
  seqs.length === 0 ? 'no rows' : `${seqs.length === 1 ? 'row' : 'rows'} ${seqs.join(', ')}`;
