import { type ComponentPlan, type HealthRules, Level, type ProbeResult } from './health.ts';

/**
 * What the probes of one component add up to.
 *
 *              the last `down` probes were all worse
 *   none … severe ─────────────────────────────────▶ the least bad of them
 *                 ◀─────────────────────────────────
 *              the last `up` probes were all better: the worst of them
 *
 * So level' = max(least of the last `down`, min(level, worst of the last `up`)). That is monotone in each probe: worse
 * evidence never gives a better level. A single bad probe changes nothing, and neither does a single good one.
 */
export interface Evidence {
  /** The confirmed level, critical excepted: that is a matter of the breaker. */
  level: Level;
  /** What the last probes showed, the newest last; as many as the rules look at. */
  shown: Level[];
  /** Which of the last probes failed; begins anew with each confirmed outage, whose failures are told as what they are. */
  failures: boolean[];
}

export const NO_EVIDENCE: Evidence = { level: Level.none, shown: [], failures: [] };

/** Adds a probe that is evidence of something (`up` or `down`). */
export function weigh(
  before: Evidence,
  result: ProbeResult,
  plan: ComponentPlan,
  { down, up, errorWindow }: HealthRules,
): Evidence {
  const failing = before.level >= Level.severe;
  const failures = failing ? [] : [...before.failures, result.outcome === 'down'].slice(-errorWindow);
  const newest = levelOf(result, plan, failures.length < errorWindow ? 0 : errorRate(failures));
  const shown = [...before.shown, newest].slice(-Math.max(down, up));
  // Too few probes change nothing.
  const least = shown.length < down ? Level.none : Math.min(...shown.slice(-down));
  const worst = shown.length < up ? before.level : Math.max(...shown.slice(-up));
  const level = Math.max(least, Math.min(before.level, worst)) as Level;
  return { level, shown, failures: level >= Level.severe ? [] : failures };
}

/** Whether the next probes may change the level: they are worth making soon. */
export const isUnsettled = ({ level, shown }: Evidence): boolean => (shown.at(-1) ?? level) !== level;

/** A share, 0 to 1. */
export const errorRate = (failures: boolean[]): number =>
  failures.length === 0 ? 0 : failures.filter(Boolean).length / failures.length;

/** As people see it: 1 in an outage, and 0 until there are enough probes. */
export function errorRateShown({ level, failures }: Evidence, { errorWindow }: HealthRules): number {
  if (level >= Level.severe) return 1;
  return failures.length < errorWindow ? 0 : errorRate(failures);
}

/** What a single probe shows, by itself. One that is no evidence shows nothing. */
export const levelShown = (result: ProbeResult, plan: ComponentPlan): Level =>
  result.outcome === 'unknown' ? Level.none : levelOf(result, plan, 0);

function levelOf(result: ProbeResult, { slowSeconds, errorRates }: ComponentPlan, rate: number): Level {
  if (result.outcome === 'down') return Level.severe;
  const bySlowness = exceeded(slowSeconds, result.seconds);
  const byErrors = exceeded(errorRates, rate);
  return Math.max(bySlowness, byErrors, Level[result.atLeast ?? 'none']) as Level;
}

/** How many of the ascending limits a value exceeds: the levels begin with none and go up one a limit. */
const exceeded = (limits: number[], value: number): number => limits.filter((limit) => value > limit).length;
