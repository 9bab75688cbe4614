import {
  type HealthNotice,
  type HealthPlan,
  type HealthRecord,
  type HealthRules,
  type HealthTransition,
  Level,
  levelName,
  type ProbeResult,
  type ProbeResults,
  type TransitionEvent,
} from './health.ts';
import { type BreakerState, CLOSED, tripped } from './healthBreaker.ts';
import {
  affectedBy,
  classOf,
  dependentsOf,
  explain,
  findRoots,
  type Standing,
  type Standings,
} from './healthCascade.ts';
import { COMPONENT_NAMES, type ComponentName } from './healthComponents.ts';
import { type Flapping, flapped, STEADY } from './healthFlapping.ts';
import { type Evidence, isUnsettled, levelShown, NO_EVIDENCE, weigh } from './healthLevels.ts';
import { composeNotice, NOTHING_TOLD, noticeDue, type Told } from './healthNotices.ts';
import { sifted } from './healthSifting.ts';
import { judgeTiers, type TierStandings } from './uploadTiers.ts';

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

type Levels = Record<ComponentName, Level>;

export interface Moment {
  /** Epoch ms; later in each call. */
  now: number;
  /** All components were probed, not only those whose state is about to change. */
  full: boolean;
  /** From 0 to 1, another one each time. */
  random(): number;
}

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
const levelAlone = ({ alone, breaker }: ComponentState): Level => raised(alone, breaker);

const raised = ({ level }: Evidence, breaker: BreakerState): Level =>
  level === Level.severe && breaker.state === 'open' ? Level.critical : level;

/**
 * One cycle: what was known and what the probes found become what is known now and what has to be written down. All
 * results are weighed before anything is said, so that an outage and what follows from it are told apart.
 */
export function advance(
  plan: HealthPlan,
  before: Components,
  found: ProbeResults,
  moment: Moment,
): { components: Components; record: HealthRecord } {
  const hasFailed = (name: ComponentName) => before[name].evidence.level >= Level.severe;
  // A soft cycle asks only what is in doubt: that all of it hangs says nothing of our own network.
  const results = moment.full ? sifted(plan, found, hasFailed) : found;
  const weighed = each((name) => observed(plan, name, before[name], results[name], moment));
  const levels = each((name) => ownLevel(weighed[name]));
  const standings = findRoots(plan, levels);
  const parted = part(plan, weighed, { levels, results, now: moment.now });
  const record: HealthRecord = { transitions: [], notices: [], gates: [] };
  const components = each((name) => {
    const state = placed(parted(name), before[name], standings[name], moment);
    record.transitions.push(...transitionsOf(name, before[name], state, moment.now));
    if (untilOf(state) !== untilOf(before[name]))
      record.gates.push({ component: name, openUntil: untilOf(state) });
    const affected = affectedBy(standings, name);
    const notice = noticeFor(plan, name, state, {
      now: moment.now,
      // At a recovery: what it had affected.
      affected: affected.length > 0 ? affected : affectedBy(standingsOf(before), name),
    });
    if (!notice) return state;
    record.notices.push(notice);
    return {
      ...state,
      told: { level: levelAlone(state), at: moment.now, flapping: state.flapping.flapping },
    };
  });
  if (results.storage) {
    const during = { ...moment, intervalSeconds: plan.intervalSeconds };
    const { tiers, gates } = judgeTiers(before.storage.tiers, results.storage, during);
    components.storage.tiers = tiers;
    record.gates.push(...gates);
  }
  return { components, record };
}

/** The components that are worth probing soon: those about to change, what may explain them, what follows from them. */
export function unsettled(plan: HealthPlan, components: Components): ComponentName[] {
  const isOpen = (name: ComponentName) =>
    isUnsettled(components[name].evidence) || isUnsettled(components[name].alone);
  const open = COMPONENT_NAMES.filter(isOpen);
  const isWorthIt = (name: ComponentName) =>
    open.includes(name) ||
    open.some((other) => components[name].standing.suppressedBy.includes(other)) ||
    dependentsOf(plan, name).some((other) => open.includes(other));
  return COMPONENT_NAMES.filter((name) => plan.components[name].monitoring === 'probed' && isWorthIt(name));
}

/** The component with its probe weighed in, if that is evidence of anything. */
function observed(
  plan: HealthPlan,
  name: ComponentName,
  before: ComponentState,
  result: ProbeResult | undefined,
  { now, random }: Moment,
): ComponentState {
  const its = plan.components[name];
  if (its.monitoring !== 'probed')
    return { ...before, evidence: NO_EVIDENCE, alone: NO_EVIDENCE, breaker: CLOSED, last: null };
  if (!result) return before;
  const firstProbedAt = before.firstProbedAt ?? now;
  const seenUp = before.seenUp || result.outcome === 'up';
  const state = { ...before, firstProbedAt, seenUp, last: { ...result, at: now } };
  if (!isEvidence(state, result, plan.rules)) return state;
  const evidence = weigh(before.evidence, result, its, plan.rules);
  const failed = evidence.shown.at(-1)! >= Level.severe;
  const breaker = its.breaker
    ? tripped(before.breaker, failed, { plan: its.breaker, now, random: random() })
    : CLOSED;
  return { ...state, evidence, breaker };
}

/** A probe is, unless it was the probing that failed, or its component is still starting. */
function isEvidence(
  { seenUp, firstProbedAt, last }: ComponentState,
  result: ProbeResult | undefined,
  { graceSeconds }: HealthRules,
): result is ProbeResult {
  if (!result || result.outcome === 'unknown' || !last || firstProbedAt === null) return false;
  return seenUp || last.at - firstProbedAt >= graceSeconds * 1000;
}

/**
 * Parts a component's own trouble from what its dependencies explain. A bad probe
 * - is explained by an outage that is confirmed: those just before it do not count either;
 * - may be explained, because the last probe of a dependency was bad as well, or because the outage below is over for
 *   less than the time that a start may take: it does not count;
 * - is its own else. So what outlasts its root has to fail as often as any other to be told.
 *
 * A dependent may notice the beginning and the end of an outage a probe sooner or later than the root. That is never
 * enough for an outage of its own, and failures next to those of a dependency are no part of its error rate.
 */
function part(
  plan: HealthPlan,
  weighed: Components,
  { levels, results, now }: { levels: Levels; results: ProbeResults; now: number },
): (name: ComponentName) => ComponentState {
  const shown = each((name) => shownLast(plan, name, weighed[name]));
  const feared = each((name) => Math.max(levels[name], shown[name]) as Level);
  const recent = each((name) => Math.max(feared[name], ...weighed[name].evidence.shown) as Level);
  return (name) => {
    const state = weighed[name];
    const { alone } = state;
    const result = results[name];
    if (!isEvidence(state, result, plan.rules)) return state;
    const isExplained = (by: Levels) => explain(plan, by, name, classOf(shown[name])).length > 0;
    if (isExplained(levels)) {
      const excusedUntil = now + plan.rules.graceSeconds * 1000;
      return withAlone({ ...state, excusedUntil }, { ...alone, shown: [], failures: withoutLastRow(alone) });
    }
    const isExcused = shown[name] > Level.none && now < state.excusedUntil;
    if (isExcused || isExplained(feared))
      return withAlone(state, { ...alone, failures: withoutLastRow(alone) });
    const next = weigh(alone, result, plan.components[name], plan.rules);
    return withAlone(state, isExplained(recent) ? { ...next, failures: withoutLastRow(next) } : next);
  };
}

/** Without the failures in a row that it ends with. */
const withoutLastRow = ({ failures }: Evidence): boolean[] =>
  failures.slice(0, failures.lastIndexOf(false) + 1);

const shownLast = (plan: HealthPlan, name: ComponentName, { last }: ComponentState): Level =>
  last ? levelShown(last, plan.components[name]) : Level.none;

/** Error rates are of failures that nothing explains. */
const withAlone = (state: ComponentState, alone: Evidence): ComponentState => ({
  ...state,
  alone,
  evidence: { ...state.evidence, failures: alone.failures },
});

function placed(
  weighed: ComponentState,
  before: ComponentState,
  standing: Standing,
  { now, full }: Moment,
): ComponentState {
  const changed = weighed.changed || classOf(levelAlone(weighed)) !== classOf(levelAlone(before));
  const { maintenanceUntil } = weighed;
  return {
    ...weighed,
    standing,
    since: classOf(standing.level) === classOf(before.standing.level) ? before.since : now,
    changed: full ? false : changed,
    flapping: full ? flapped(weighed.flapping, changed) : weighed.flapping,
    maintenanceUntil: maintenanceUntil !== null && maintenanceUntil > now ? maintenanceUntil : null,
  };
}

const untilOf = ({ breaker }: ComponentState): string | null =>
  breaker.state === 'open' ? new Date(breaker.until).toISOString() : null;

function transitionsOf(
  component: ComponentName,
  before: ComponentState,
  after: ComponentState,
  now: number,
): HealthTransition[] {
  const { level, suppressedBy } = after.standing;
  const transition = (event: TransitionEvent, from: Level): HealthTransition => ({
    component,
    event,
    from: levelName(from),
    to: levelName(level),
    at: new Date(now).toISOString(),
    suppressed_by: suppressedBy,
    error: level === Level.none ? null : (after.last?.error ?? null),
  });
  const transitions: HealthTransition[] = [];
  const was = before.standing.level;
  if (level !== was) transitions.push(transition(eventOf(was, after.standing), was));
  const { flapping } = after.flapping;
  if (flapping !== before.flapping.flapping)
    transitions.push(transition(flapping ? 'flapping_started' : 'flapping_ended', level));
  if (before.maintenanceUntil !== null && after.maintenanceUntil === null)
    transitions.push(transition('maintenance_ended', level));
  return transitions;
}

function eventOf(was: Level, { level, suppressedBy }: Standing): TransitionEvent {
  if (level === Level.none) return 'recovery';
  if (level < was) return 'change';
  return suppressedBy.length > 0 ? 'cascading' : 'failure';
}

function noticeFor(
  plan: HealthPlan,
  name: ComponentName,
  state: ComponentState,
  { now, affected }: { now: number; affected: ComponentName[] },
): HealthNotice | undefined {
  const { told, last, alone, flapping, maintenanceUntil } = state;
  const level = levelAlone(state);
  const situation = {
    level,
    mending: (alone.shown.at(-1) ?? alone.level) < alone.level,
    flapping: flapping.flapping,
    maintenance: maintenanceUntil !== null,
  };
  const event = noticeDue(told, situation, now, plan.rules);
  return (
    event && composeNotice(plan, name, event, { level, told, last, failures: alone.failures, affected, now })
  );
}

function each<T>(make: (name: ComponentName) => T): Record<ComponentName, T> {
  return Object.fromEntries(COMPONENT_NAMES.map((name) => [name, make(name)])) as Record<ComponentName, T>;
}
