import { Level, type ProbeResult } from './health.ts';
import { type BreakerState, CLOSED } from './healthBreaker.ts';
import type { Standing, Standings } from './healthCascade.ts';
import { COMPONENT_NAMES, type ComponentName } from './healthComponents.ts';
import { type Flapping, STEADY } from './healthFlapping.ts';
import { type Evidence, NO_EVIDENCE } from './healthLevels.ts';
import { NOTHING_TOLD, type Told } from './healthNotices.ts';
import type { TierStandings } from './uploadTiers.ts';

/** All that is known of a component from one cycle to the next. Plain JSON; times are epoch ms. */
export interface ComponentState {
  /** All that its probes show. */
  evidence: Evidence;
  /** Of that, what no dependency explains: its own trouble, and that alone is told. */
  alone: Evidence;
  breaker: BreakerState;
  flapping: Flapping;
  /** Whether the class of its own trouble changed since the last full cycle. */
  changed: boolean;
  standing: Standing;
  /** Since when it is fine, degraded, or failed. */
  since: number;
  /** Epoch ms: until then a failure is still laid to the outage that explained the last one. */
  excusedUntil: number;
  told: Told;
  last: (ProbeResult & { at: number }) | null;
  firstProbedAt: number | null;
  seenUp: boolean;
  maintenanceUntil: number | null;
  /** Of the storage. */
  tiers?: TierStandings;
}

export type Components = Record<ComponentName, ComponentState>;

export type Levels = Record<ComponentName, Level>;

export const unknownComponents = (now: number): Components =>
  each(() => ({
    evidence: NO_EVIDENCE,
    alone: NO_EVIDENCE,
    breaker: CLOSED,
    flapping: STEADY,
    changed: false,
    standing: { level: Level.none, suppressedBy: [] },
    since: now,
    excusedUntil: 0,
    told: NOTHING_TOLD,
    last: null,
    firstProbedAt: null,
    seenUp: false,
    maintenanceUntil: null,
  }));

export const standingsOf = (components: Components): Standings => each((name) => components[name].standing);

/** A component's own level: critical where it has failed and its breaker is open. */
export const ownLevel = ({ evidence, breaker }: ComponentState): Level => raised(evidence, breaker);

/** Of the trouble that no dependency explains. */
export const levelAlone = ({ alone, breaker }: ComponentState): Level => raised(alone, breaker);

const raised = ({ level }: Evidence, breaker: BreakerState): Level =>
  level === Level.severe && breaker.state === 'open' ? Level.critical : level;

/** Something for each component. */
export function each<T>(make: (name: ComponentName) => T): Record<ComponentName, T> {
  return Object.fromEntries(COMPONENT_NAMES.map((name) => [name, make(name)])) as Record<ComponentName, T>;
}
