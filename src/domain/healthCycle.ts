import {
  type HealthNotice,
  type HealthPlan,
  type HealthRecord,
  type HealthTransition,
  Level,
  levelName,
  type ProbeResult,
  type ProbeResults,
  type TransitionEvent,
} from './health.ts';
import { CLOSED, tripped } from './healthBreaker.ts';
import { affectedBy, classOf, dependentsOf, findRoots, type Standing } from './healthCascade.ts';
import { COMPONENT_NAMES, type ComponentName } from './healthComponents.ts';
import { flapped } from './healthFlapping.ts';
import { isUnsettled, NO_EVIDENCE, weigh } from './healthLevels.ts';
import { composeNotice, noticeDue } from './healthNotices.ts';
import { isEvidence, part } from './healthOwnTrouble.ts';
import { sifted } from './healthSifting.ts';
import {
  type ComponentState,
  type Components,
  each,
  levelAlone,
  ownLevel,
  standingsOf,
} from './healthState.ts';
import { judgeTiers } from './uploadTiers.ts';

export interface Moment {
  /** Epoch ms; later in each call. */
  now: number;
  /** All components were probed, not only those whose state is about to change. */
  full: boolean;
  /** From 0 to 1, another one each time. */
  random(): number;
}

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
