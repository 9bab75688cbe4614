import type { Fault } from './faults.ts';
import { type Mechanism, type Protocol, TAKEOVER, type TakeoverStep } from './relay.ts';
import type { Scenario } from './states.ts';

export const protocol: Protocol = { takeover: TAKEOVER, without: undefined, keys: ['a', 'b', 'a'], limit: 2 };

/** The protocol with something left out or done at the wrong time, and the faults that come of it. */
export interface Mutant {
  name: string;
  protocol: Protocol;
  faults: Fault[];
}

const without = (mechanism: Mechanism): Protocol => ({ ...protocol, without: mechanism });
const inOrder = (...takeover: TakeoverStep[]): Protocol => ({ ...protocol, takeover });

/** Small, and large enough to find each of the faults below: two relays, a late row, two rejections. */
export const mutantScenario = (mutant: Protocol): Scenario => ({
  protocol: mutant,
  runs: 2,
  late: 1,
  rejections: 2,
  kills: false,
});

export const mutants: Mutant[] = [
  {
    name: 'no journal: rows are sent without being written down',
    protocol: without('journal'),
    faults: ['doubled'],
  },
  {
    name: 'no epoch in Postgres: nobody is refused there',
    protocol: without('epoch'),
    faults: ['false stop', 'doubled'],
  },
  {
    name: 'a batch is settled without looking at epoch, number or open batch',
    protocol: without('checks when settling'),
    faults: ['false stop'],
  },
  {
    name: 'no fencing in Kafka: each relay has a transactional id of its own',
    protocol: without('fencing in Kafka'),
    faults: ['doubled', 'false stop'],
  },
  {
    name: 'the mark is committed behind the transaction',
    protocol: without('mark in the transaction'),
    faults: ['doubled'],
  },
  {
    name: 'the mark is read before the producer is initialised',
    protocol: inOrder('raiseEpoch', 'readMark', 'initialise', 'beginBarrier', 'commitBarrier', 'readJournal'),
    faults: ['doubled', 'false stop'],
  },
  {
    name: 'the mark is read without a barrier',
    protocol: inOrder('raiseEpoch', 'initialise', 'readMark', 'readJournal'),
    faults: ['doubled', 'false stop'],
  },
  {
    name: 'the mark is read before the epoch is raised',
    protocol: inOrder('initialise', 'beginBarrier', 'commitBarrier', 'readMark', 'raiseEpoch', 'readJournal'),
    faults: ['false stop'],
  },
  {
    name: 'the journal is read before the epoch is raised',
    protocol: inOrder('readJournal', 'raiseEpoch', 'initialise', 'beginBarrier', 'commitBarrier', 'readMark'),
    faults: ['false stop'],
  },
  {
    name: 'the journal is read before the producer is initialised',
    protocol: inOrder('raiseEpoch', 'readJournal', 'initialise', 'beginBarrier', 'commitBarrier', 'readMark'),
    faults: ['false stop'],
  },
  {
    name: 'a new shard opens its first batch without a first mark',
    protocol: without('first mark'),
    faults: ['false stop'],
  },
  {
    name: 'a producer is used again after an error: Kafka takes the repetition for one that it has',
    protocol: without('fresh producer after an error'),
    faults: ['lost'],
  },
  {
    name: 'nobody checks that all partitions have confirmed their records',
    protocol: without('acknowledgements'),
    faults: ['lost'],
  },
  {
    name: 'a batch without an answer is abandoned like a rejected one',
    protocol: without('asking Kafka before abandoning'),
    faults: ['false stop'],
  },
  {
    name: 'an open batch is sent again with the rows that are pending then',
    protocol: without('the same rows when resending'),
    faults: ['doubled'],
  },
  {
    name: 'a parked row does not hold back its key',
    protocol: without('holding back'),
    faults: ['reordered'],
  },
];

/**
 * What may be left out, one at a time, without a fault.
 *
 * The number: while the epoch is checked, a relay is the only writer of its journal, and the journal is what it
 * remembers. The check costs nothing, and catches what the model has not: two relays under one epoch by a mistake.
 *
 * The batch id: while no side is set back, a number means one batch only. The id is there to notice that one was, which
 * is when shards have to stop.
 */
export const redundant: Pick<Mutant, 'name' | 'protocol'>[] = [
  { name: 'number and open batch, when the epoch is checked', protocol: without('number and open batch') },
  { name: 'the batch id, when no side is set back', protocol: without('batch id') },
];
