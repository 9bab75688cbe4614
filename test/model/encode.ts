import { barrierToken, type Relay } from './relay.ts';
import type { State } from './states.ts';
import { isCurrent, type OffsetCommit, type ProducerHandle, type World } from './world.ts';

/**
 * States with the same code have the same future, apart from names: relays are told apart by what they remember, and
 * of an epoch only whether it is still the highest, of a barrier only where it is.
 */
export function encode({ world, relays }: State): string {
  const codes = relays.map((relay) => encodeRelay(world, relay));
  return `${relays.length}${encodeWorld(world)}${codes.sort().join('')}`;
}

export function encodeWorld({
  rows,
  journal,
  opened,
  log,
  producers,
  unapplied,
  mark,
  rejections,
}: World): string {
  let code = `${rejections}${opened}`;
  for (const status of rows) code += STATUS_CODES[status];
  code += `${journal.settled.number}${journal.settled.batchId}`;
  if (journal.open) code += `<${journal.open.batchId}:${journal.open.seqs}`;
  code += '|';
  for (const { seq, producer } of log) code += producer === null ? seq : `${seq}*${producer}`;
  for (const { state, offset } of producers) code += `|${state[0]}${offset ? encodeOffset(offset) : ''}`;
  code += '|';
  for (const offset of unapplied) code += encodeOffset(offset);
  return mark ? `${code}|${encodeOffset({ mark })}` : code;
}

const STATUS_CODES = { pending: '.', failed: 'x', published: '+' };

function encodeRelay(world: World, relay: Relay): string {
  const { next, epoch, producer, mark, journal, batch, settled, limit, rejected, contradiction } = relay;
  if (next === 'nothing') return contradiction === undefined ? '' : 's';
  let code = `;${next}${epoch === world.journal.epoch ? 'E' : '-'}${epoch === undefined ? 'n' : ''}`;
  code += `${limit}${settled}${rejected ? 'r' : ''}${relay.condemned ?? ''}`;
  if (producer) {
    code += `p${producer.id}`;
    if (isCurrent(world, producer)) code += `C${encodeSequence(world, producer)}`;
    if (MAY_WAIT.has(next)) code += whereIs(world, barrierToken(relay));
  }
  if (mark) code += `m${encodeOffset({ mark })}`;
  if (journal) {
    code += `j${journal.settled.number}${journal.settled.batchId}`;
    if (journal.open) code += `<${journal.open.batchId}:${journal.open.seqs}`;
  }
  return batch ? `${code}b${batch.number}${batch.batchId}:${batch.seqs}` : code;
}

/** A batch id says the number as well; only the first mark has none of a batch. */
const encodeOffset = ({ mark }: OffsetCommit): string =>
  mark ? (mark.number === 0 ? '0' : mark.batchId) : 'B';

/** The client's count is Kafka's, unless an answer was lost; only then does the last batch matter. */
function encodeSequence({ producers }: World, { id, sequence }: ProducerHandle): string {
  const { first, next } = producers[id]!.last;
  return next === sequence ? '' : `${next - sequence},${next - first}`;
}

/** Where a relay has its barrier or may have it, and its token is still of use. */
const MAY_WAIT = new Set<Relay['next']>(['commitBarrier', 'raiseEpoch', 'readMark', 'readJournal']);

function whereIs({ barrier, unapplied, producers }: World, token: string): string {
  if (barrier === token) return '!';
  const at = unapplied.findIndex((offset) => offset.barrier === token);
  if (at >= 0) return `@${at}`;
  return producers.some(({ offset }) => offset?.barrier === token) ? '?' : '';
}
