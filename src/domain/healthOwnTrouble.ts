import { type HealthPlan, type HealthRules, Level, type ProbeResult, type ProbeResults } from './health.ts';
import { classOf, explain } from './healthCascade.ts';
import type { ComponentName } from './healthComponents.ts';
import { type Evidence, levelShown, weigh } from './healthLevels.ts';
import { type ComponentState, type Components, each, type Levels } from './healthState.ts';

/** A probe is, unless it was the probing that failed, or its component is still starting. */
export function isEvidence(
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
export function part(
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
