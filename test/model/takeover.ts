import {
  decideTakeover,
  FIRST_MARK,
  type Journal,
  type Mark,
  type TakeoverDecision,
} from '../../src/domain/outboxTakeover.ts';
import {
  barrierToken,
  described,
  holdsEpoch,
  type Mechanism,
  type Place,
  type Protocol,
  type Relay,
  refusedByKafka,
  refusedByPostgres,
  type Step,
  type TakeoverStep,
} from './relay.ts';
import {
  beginTransaction,
  claimRows,
  commitOffset,
  commitTransaction,
  initialiseProducer,
  pendingAmong,
  setRows,
} from './world.ts';

// How a relay begins. One whose batch was rejected comes here again, with a new producer and the epoch that it has.

export const raiseEpoch: Step = (world, relay, protocol) => {
  const epoch = world.journal.epoch + 1;
  world.journal = { ...world.journal, epoch };
  relay.epoch = epoch;
  return took(relay, protocol, `raises the epoch to ${epoch}`);
};

export const initialise: Step = (world, relay, protocol) => {
  const ownId = protocol.without === 'fencing in Kafka' ? world.producers.length : 0;
  const producer = initialiseProducer(world, relay.producer?.id ?? ownId);
  if (producer === 'wait') return undefined;
  relay.producer = producer;
  return took(relay, protocol, 'initialises its producer, which fences the one before');
};

export const beginBarrier: Step = (world, relay, protocol) => {
  const answer = beginTransaction(world, relay.producer!, { barrier: barrierToken(relay) });
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to begin');
  return took(relay, protocol, 'begins a transaction with a barrier');
};

export const commitBarrier: Step = (world, relay, protocol) => {
  const answer = commitTransaction(world, relay.producer!);
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to commit');
  return took(relay, protocol, 'commits the barrier');
};

export const readMark: Step = (world, relay, protocol) => {
  if (waitsForBarrier(protocol) && world.barrier !== barrierToken(relay)) return undefined;
  relay.mark = world.mark;
  return took(relay, protocol, `reads the mark: ${world.mark ? described(world.mark) : 'none'}`);
};

/** Unless there is none, or none yet. */
export const waitsForBarrier = ({ takeover }: Protocol): boolean =>
  takeover.slice(0, takeover.indexOf('readMark')).includes('commitBarrier');

export const readJournal: Step = (world, relay, protocol) => {
  // A mutant that has no epoch yet cannot ask under it.
  const asked = relay.epoch === undefined || holdsEpoch(world, relay, protocol);
  if (!asked) return refusedByPostgres(relay, 'to read the journal');
  const { settled, open } = world.journal;
  relay.journal = { settled, open };
  const known = `${settled.number} settled, ${open ? described(open) : 'none'} open`;
  return took(relay, protocol, `reads the journal: ${known}`);
};

/** On to the next step of the takeover; behind the last one, the decision. */
function took(relay: Relay, { takeover, without }: Protocol, what: string): string {
  const rest = takeover.slice(takeover.indexOf(relay.next as TakeoverStep) + 1);
  const step = rest.find((next) => next !== 'raiseEpoch' || relay.epoch === undefined);
  if (!step) return `${relay.name} ${what}; decides to ${decide(relay, without)}`;
  relay.next = step;
  return `${relay.name} ${what}`;
}

const AFTER: Record<TakeoverDecision['kind'], Place | 'nothing'> = {
  begin: 'firstMark',
  proceed: 'claim',
  settle: 'settleTakenOver',
  resend: 'reload',
  stop: 'nothing',
};

function decide(relay: Relay, without: Mechanism | undefined): string {
  const journal = relay.journal!;
  const mark = without === 'batch id' ? withExpectedId(journal, relay.mark) : relay.mark;
  const decision = without === 'journal' ? ({ kind: 'proceed' } as const) : decideTakeover(journal, mark);
  relay.settled = journal.settled.number;
  relay.batch = journal.open ?? undefined;
  relay.journal = undefined;
  // Only a relay that proceeds may renew it.
  if (decision.kind !== 'proceed') relay.mark = undefined;
  if (decision.kind !== 'resend') relay.rejected = false;
  if (decision.kind === 'stop') relay.contradiction = decision.reason;
  relay.next = AFTER[decision.kind];
  return decision.kind;
}

function withExpectedId({ settled, open }: Journal, mark: Mark | undefined): Mark | undefined {
  const known = [settled, open].find((batch) => batch?.number === mark?.number);
  return mark && { number: mark.number, batchId: known?.batchId ?? mark.batchId };
}

/** Of a new shard, before it opens anything. */
export const firstMark: Step = (world, relay, { without }) => {
  relay.next = 'claim';
  if (without === 'first mark') return `${relay.name} commits no first mark`;
  const answer = commitOffset(world, relay.producer!, { mark: FIRST_MARK });
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to commit the first mark');
  return `${relay.name} commits the first mark`;
};

export const reload: Step = (world, relay, { keys, limit, without }) => {
  const batch = relay.batch!;
  const anew = without === 'the same rows when resending';
  const seqs = anew ? claimRows(world, keys, limit) : pendingAmong(world, batch.seqs);
  relay.batch = { ...batch, seqs };
  relay.next = relay.rejected ? 'abandon' : 'begin';
  return `${relay.name} reloads batch ${described(relay.batch)}`;
};

/**
 * A rejected batch is given up. Its rows come again: without the key that is known to be at fault, or in smaller
 * batches, until the row at fault is alone and parked.
 */
export const abandon: Step = (world, relay, protocol) => {
  if (!holdsEpoch(world, relay, protocol)) return refusedByPostgres(relay, 'to abandon its batch');
  const { seqs } = relay.batch!;
  world.journal = { ...world.journal, open: null };
  const culprit = relay.condemned === undefined && seqs.length === 1;
  if (culprit) setRows(world, seqs, 'pending', 'failed');
  if (relay.condemned === undefined) relay.limit = Math.max(1, Math.floor(seqs.length / 2));
  relay.rejected = false;
  relay.batch = undefined;
  relay.next = 'claim';
  return `${relay.name} abandons the batch${culprit ? ` and parks row ${seqs[0]}` : ''}`;
};
