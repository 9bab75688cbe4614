import * as delivery from './delivery.ts';
import { newRelay, type Place, type Protocol, type Relay, type Step } from './relay.ts';
import * as takeover from './takeover.ts';
import { applyOffset, insertRow, newWorld, retryRow, timeOut, type World, writeMarkers } from './world.ts';

/** A moment of the whole: what is stored, and what each relay remembers. */
export interface State {
  world: World;
  /** In the order in which they began. */
  relays: readonly Relay[];
}

export interface Scenario {
  protocol: Protocol;
  /** How many runs of relays there are. They begin at any moment and may all be alive at once. */
  runs: number;
  /** How many of the rows are inserted later, at any moment. */
  late: number;
  /** How many batches Kafka may reject. */
  rejections: number;
  /** Whether relays may be killed, as a step of its own. */
  kills: boolean;
}

export const initialState = ({ protocol, late, rejections }: Scenario): State => ({
  world: newWorld(protocol.keys.length - late, rejections),
  relays: [],
});

/** What a relay may do at each place; the first is what an undisturbed one does. */
const PROGRAM: Record<Place | 'nothing', readonly Step[]> = {
  raiseEpoch: [takeover.raiseEpoch],
  initialise: [takeover.initialise],
  beginBarrier: [takeover.beginBarrier],
  commitBarrier: [takeover.commitBarrier],
  readMark: [takeover.readMark],
  readJournal: [takeover.readJournal],
  reload: [takeover.reload],
  abandon: [takeover.abandon],
  firstMark: [takeover.firstMark],
  settleTakenOver: [delivery.settle],
  claim: [delivery.claim, delivery.renewMark],
  open: [delivery.open],
  begin: [delivery.begin, delivery.refusedUnsent],
  send: [delivery.send, delivery.sendInPart, delivery.sendRejected, delivery.sendUnanswered],
  commit: [delivery.commit, delivery.commitUnanswered],
  markAlone: [delivery.markAlone],
  settleAndOpen: [delivery.settleAndOpen, delivery.settleAndLeave],
  nothing: [],
};

export const stepsOf = ({ next }: Relay): readonly Step[] => PROGRAM[next];

type Happening = [what: string, happens: (world: World, protocol: Protocol) => boolean];

/** What brings things forward by itself. */
export const PROGRESS: readonly Happening[] = [
  ['a writer inserts the next row', (world, { keys }) => insertRow(world, keys.length)],
  ['the parked row 1 falls due', (world) => retryRow(world, 0)],
  ['the parked row 2 falls due', (world) => retryRow(world, 1)],
  ['the parked row 3 falls due', (world) => retryRow(world, 2)],
  ['Kafka writes the markers of the commit', writeMarkers],
  ['Kafka applies the next committed offset', applyOffset],
];
const HAPPENINGS: readonly Happening[] = [...PROGRESS, ['Kafka aborts the transaction for its age', timeOut]];

/** Calls `visit` with each state that one step leads to, always in the same order. */
export function eachStep(state: State, scenario: Scenario, visit: (what: string, next: State) => void): void {
  const { world, relays } = state;
  const { protocol, runs, kills } = scenario;
  const take = (step: Step, relay: Relay, index: number) => {
    const [nextWorld, nextRelay] = [{ ...world }, { ...relay }];
    const what = step(nextWorld, nextRelay, protocol);
    if (what === undefined) return;
    const nextRelays = relays.slice();
    nextRelays[index] = nextRelay;
    visit(what, { world: nextWorld, relays: nextRelays });
  };
  relays.forEach((relay, index) => {
    for (const step of stepsOf(relay)) take(step, relay, index);
    if (kills && relay.next !== 'nothing') take(kill, relay, index);
  });
  if (relays.length < runs) {
    const relay = newRelay(String.fromCharCode(65 + relays.length), protocol);
    take(stepsOf(relay)[0]!, relay, relays.length);
  }
  for (const [what, happens] of HAPPENINGS) {
    const next = { ...world };
    if (happens(next, protocol)) visit(what, { world: next, relays });
  }
}

const kill: Step = (_, relay) => {
  relay.next = 'nothing';
  return `${relay.name} is killed`;
};
