/**
 * Whether a component changes so often that its changes are not news any more, as Icinga judges it (lib/icinga/
 * checkable-flapping.cpp): the share of cycles with a change among the last 20, newer ones weighing more.
 *
 *           share > 30 %
 *   steady ─────────────▶ flapping
 *          ◀─────────────
 *           share ≤ 25 %
 */
export interface Flapping {
  /** Whether it had changed in each of the last cycles, the newest last. */
  changes: boolean[];
  flapping: boolean;
}

export const STEADY: Flapping = { changes: [], flapping: false };

const CYCLES = 20;
const START_ABOVE = 0.3;
const STOP_AT = 0.25;
/** 0.8 for the oldest cycle, 1.18 for the newest. */
const weight = (age: number): number => 1.18 - 0.02 * age;

/** Adds one cycle. */
export function flapped(before: Flapping, changed: boolean): Flapping {
  const changes = [...before.changes, changed].slice(-CYCLES);
  const share = changeShare(changes);
  return { changes, flapping: before.flapping ? share > STOP_AT : share > START_ABOVE };
}

/** 0 to 0.99; cycles that were not made yet count as quiet. */
export function changeShare(changes: boolean[]): number {
  const newestFirst = changes.toReversed();
  return newestFirst.reduce((sum, changed, age) => sum + (changed ? weight(age) : 0), 0) / CYCLES;
}
