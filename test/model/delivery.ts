import {
  described,
  listed,
  mayAdvance,
  type Protocol,
  type Relay,
  refusedByKafka,
  refusedByPostgres,
  type Step,
} from './relay.ts';
import {
  abortTransaction,
  appendRecords,
  beginTransaction,
  claimRows,
  commitOffset,
  commitTransaction,
  isCurrent,
  openBatch,
  setRows,
  settleBatch,
  type World,
} from './world.ts';

// What a relay does once it has taken over: claim and open, send, settle and open the next.

export const claim: Step = (world, relay, protocol) => {
  const seqs = claimNext(world, relay, protocol);
  if (seqs.length === 0) return undefined;
  relay.mark = undefined;
  relay.batch = { number: relay.settled + 1, batchId: '', seqs };
  relay.next = 'open';
  return `${relay.name} claims ${listed(seqs)}`;
};

const claimNext = (world: World, { limit }: Relay, { keys, without }: Protocol): string[] =>
  claimRows(world, keys, limit, without !== 'holding back');

/** Once a day, if there is nothing to send. */
export const renewMark: Step = (world, relay) => {
  const { mark } = relay;
  if (!mark) return undefined;
  const answer = commitOffset(world, relay.producer!, { mark });
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to renew the mark');
  relay.mark = undefined;
  return `${relay.name} renews the mark ${described(mark)}`;
};

export const open: Step = (world, relay, protocol) => {
  if (!mayAdvance(world, relay, protocol)) return refusedByPostgres(relay, 'to open a batch');
  return `${relay.name} ${openNext(world, relay, protocol, relay.batch!.seqs)}`;
};

/** Parks the first row of a condemned key, leaves out those behind it, and opens a batch of the rest. */
function openNext(world: World, relay: Relay, { without, keys }: Protocol, seqs: string[]): string {
  const isCondemned = (seq: string) => keys[Number(seq) - 1] === relay.condemned;
  const culprit = seqs.find(isCondemned);
  relay.batch = openBatch(
    world,
    relay.settled + 1,
    seqs.filter((seq) => !isCondemned(seq)),
  );
  relay.next = relay.batch ? 'begin' : 'claim';
  if (without === 'journal') world.journal = { ...world.journal, open: null };
  const opened = relay.batch ? `opens batch ${described(relay.batch)}` : 'opens nothing';
  if (culprit === undefined) return opened;
  setRows(world, [culprit], 'pending', 'failed');
  relay.condemned = undefined;
  return `parks row ${culprit} and ${opened}`;
}

export const begin: Step = (world, relay, { without }) => {
  const { number, batchId } = relay.batch!;
  const offset = without === 'mark in the transaction' ? undefined : { mark: { number, batchId } };
  const answer = beginTransaction(world, relay.producer!, offset);
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to begin');
  relay.next = 'send';
  return `${relay.name} begins a transaction${offset ? ` with the mark ${described(offset.mark)}` : ''}`;
};

/** A definite no to a topic, before the transaction begins: nothing is in doubt, the publisher stays in use. */
export const refusedUnsent: Step = (world, relay, { keys }) => {
  const [first] = relay.batch!.seqs;
  if (world.rejections === 0 || first === undefined) return undefined;
  world.rejections -= 1;
  relay.condemned = keys[Number(first) - 1]!;
  relay.next = 'abandon';
  return `${relay.name} learns that Kafka refuses the key of row ${first}`;
};

export const send: Step = (world, relay) => {
  const { seqs } = relay.batch!;
  const answer = append(world, relay, seqs);
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to send');
  relay.next = 'commit';
  return `${relay.name} sends ${listed(seqs)}`;
};

/** The rows' partitions have several leaders, and not all of them get their part. */
export const sendInPart: Step = (world, relay, { without }) => {
  const { seqs } = relay.batch!;
  if (seqs.length < 2 || append(world, relay, seqs.slice(0, 1)) !== 'done') return undefined;
  relay.next = without === 'acknowledgements' ? 'commit' : 'nothing';
  return `${relay.name} sends ${listed(seqs)}, of which only row ${seqs[0]} arrives`;
};

function append(world: World, relay: Relay, seqs: string[]) {
  const { producer } = relay;
  const answer = appendRecords(world, producer!, seqs);
  if (answer === 'done') relay.producer = { ...producer!, sequence: producer!.sequence + seqs.length };
  return answer;
}

/** A definite no to these records. The publisher is finished, the relay begins anew with another. */
export const sendRejected: Step = (world, relay, { takeover }) => {
  const { seqs } = relay.batch!;
  if (world.rejections === 0 || seqs.length === 0 || !isCurrent(world, relay.producer!)) return undefined;
  world.rejections -= 1;
  relay.rejected = true;
  relay.batch = undefined;
  relay.next = takeover.find((step) => step !== 'raiseEpoch')!;
  return `${relay.name} sends ${listed(seqs)}, and Kafka rejects them`;
};

/** Of a mutant: the client takes the sequence numbers back, aborts, and goes on with the same producer. */
export const sendUnanswered: Step = (world, relay, { without }) => {
  const { seqs } = relay.batch!;
  if (without !== 'fresh producer after an error') return undefined;
  if (appendRecords(world, relay.producer!, seqs) !== 'done') return undefined;
  abortTransaction(world, relay.producer!.id);
  relay.next = 'begin';
  return `${relay.name} sends ${listed(seqs)}, gets no answer, aborts, and tries again`;
};

export const commit: Step = (world, relay, { without, limit }) => {
  const answer = commitTransaction(world, relay.producer!);
  if (answer !== 'done') return refusedByKafka(relay, answer, 'to commit');
  relay.limit = Math.min(limit, relay.limit * 2);
  relay.next = without === 'mark in the transaction' ? 'markAlone' : 'settleAndOpen';
  return `${relay.name} commits the transaction`;
};

/** Of a mutant: no answer is taken for a no. */
export const commitUnanswered: Step = (world, relay, { without }) => {
  if (without !== 'asking Kafka before abandoning') return undefined;
  if (commitTransaction(world, relay.producer!) !== 'done') return undefined;
  relay.next = 'abandon';
  return `${relay.name} commits the transaction, and gets no answer`;
};

/** Of a mutant: an offset commit of its own, behind the transaction. */
export const markAlone: Step = (world, relay) => {
  const { number, batchId } = relay.batch!;
  world.unapplied = [...world.unapplied, { mark: { number, batchId } }];
  relay.next = 'settleAndOpen';
  return `${relay.name} commits the mark ${number} (${batchId})`;
};

export const settle: Step = (world, relay, protocol) => {
  const batch = relay.batch!;
  if (!mayAdvance(world, relay, protocol, batch)) return refusedByPostgres(relay, 'to settle its batch');
  settleBatch(world, batch);
  relay.settled = batch.number;
  relay.batch = undefined;
  relay.next = 'claim';
  return `${relay.name} settles batch ${described(batch)}`;
};

export const settleAndOpen: Step = (world, relay, protocol) => {
  const settled = settle(world, relay, protocol);
  if (relay.next === 'nothing') return settled;
  return `${settled} and ${openNext(world, relay, protocol, claimNext(world, relay, protocol))}`;
};

/** A run that is over opens no other batch. */
export const settleAndLeave: Step = (world, relay, protocol) => {
  const settled = settle(world, relay, protocol);
  relay.next = 'nothing';
  return `${settled} and leaves`;
};
