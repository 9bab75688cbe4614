import { newRelay } from './relay.ts';
import { PROGRESS, type Scenario, type State, stepsOf } from './states.ts';
import type { World } from './world.ts';

/** What must never be: a contradiction is false here because no side is ever set back. */
export type Fault = 'lost' | 'doubled' | 'reordered' | 'false stop' | 'stuck';

/** What is wrong with a state as it is. */
export function faultOf({ world, relays }: State, keys: string[]): Fault | undefined {
  const committed: number[] = [];
  const last = new Map<string, number>();
  for (const { seq, producer } of world.log) {
    if (producer !== null) continue;
    const row = Number(seq);
    const key = keys[row - 1]!;
    if (committed.includes(row)) return 'doubled';
    if (row < (last.get(key) ?? 0)) return 'reordered';
    last.set(key, row);
    committed.push(row);
  }
  const isLost = world.rows.some((status, index) => status === 'published' && !committed.includes(index + 1));
  if (isLost) return 'lost';
  return relays.some(({ contradiction }) => contradiction !== undefined) ? 'false stop' : undefined;
}

const MANY = 200;

/**
 * What is wrong in the end if nobody takes a step any more but a fresh relay, which is not disturbed: it must deliver
 * every row and leave no batch open.
 */
export function faultInTheEnd(world: World, { protocol }: Scenario): Fault | undefined {
  const end = { ...world, rejections: 0 };
  const relay = newRelay('a fresh relay', protocol);
  for (let steps = 0; steps < MANY; steps += 1) {
    const happened = PROGRESS.filter(([, happens]) => happens(end, protocol)).length > 0;
    const went = stepsOf(relay)[0]?.(end, relay, protocol) !== undefined;
    const fault = faultOf({ world: end, relays: [relay] }, protocol.keys);
    if (fault) return fault;
    if (!happened && !went) break;
  }
  const isDone = end.rows.every((status) => status === 'published') && end.journal.open === null;
  return isDone && relay.next === 'claim' ? undefined : 'stuck';
}
