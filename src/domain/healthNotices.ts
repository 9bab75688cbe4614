import {
  type HealthNotice,
  type HealthPlan,
  type HealthRules,
  Level,
  levelName,
  type NoticeEvent,
  type ProbeResult,
} from './health.ts';
import { Class, classOf } from './healthCascade.ts';
import type { ComponentName } from './healthComponents.ts';
import { levelShown } from './healthLevels.ts';

/**
 * What people were last told of a component, and what they have to be told now. Compared each time anew, so nothing is
 * lost: what may not be told now is told later, if it is still so.
 *
 *              degraded *                    failed
 *   told fine ────────────▶ told degraded ◀──────────▶ told failed
 *    ▲  ▲ │                       │       degraded: eased *  │ ▲
 *    │  │ └───────────────────────┼────── failed ────────────┼─┘
 *    │  └──── fine: recovery ─────┘                          │
 *    └─────── fine: recovery ────────────────────────────────┘
 *
 *   * not within `suppressionSeconds` of the last notice; everything else at once
 *
 * An outage is what lies between the first notice and the recovery. That it is only degraded by now is told when it has
 * lasted, so that a next failure is news again. While a
 * component flaps, only the start and the end of that are told; under maintenance nothing, until it is over. What is
 * compared is its own trouble: what a dependency explains does not get here.
 */
export interface Told {
  level: Level;
  /** Epoch ms of the last notice. */
  at: number | null;
  flapping: boolean;
}

export const NOTHING_TOLD: Told = { level: 0, at: null, flapping: false };

export interface Situation {
  /** Of its own trouble. */
  level: Level;
  /** The last probe was better than that: news that is bad can wait for the next one. */
  mending: boolean;
  flapping: boolean;
  maintenance: boolean;
}

/** The notice that is due at `now` (epoch ms), if one is. */
export function noticeDue(
  told: Told,
  { level, mending, flapping, maintenance }: Situation,
  now: number,
  { suppressionSeconds }: HealthRules,
): NoticeEvent | undefined {
  const is = classOf(level);
  const was = classOf(told.level);
  const suppressed = told.at !== null && now - told.at < suppressionSeconds * 1000;
  if (maintenance) return undefined;
  if (flapping) return told.flapping ? undefined : 'flapping_started';
  if (told.flapping) return 'flapping_ended';
  if (is === Class.fine) return was === Class.fine ? undefined : 'recovery';
  if (is < was) return suppressed ? undefined : 'eased';
  if (is === was || mending) return undefined;
  return is === Class.degraded && suppressed ? undefined : 'failure';
}

interface Composing {
  level: Level;
  told: Told;
  last: ProbeResult | null;
  /** Which of the last probes failed. */
  failures: boolean[];
  /** What the component's trouble affects, or has affected. */
  affected: ComponentName[];
  now: number;
}

/** The message of a notice. Its key is new for each moment, and the same however often that moment is replayed. */
export function composeNotice(
  plan: HealthPlan,
  component: ComponentName,
  event: NoticeEvent,
  { level, told, last, failures, affected, now }: Composing,
): HealthNotice {
  const severity = severityOf(event, level);
  const error = last?.error ?? null;
  return {
    idempotencyKey: `degradation:${component}:${now}`,
    component,
    severity,
    payload: {
      component,
      event,
      old_status: levelName(told.level),
      new_status: levelName(level),
      severity,
      message: sentence(plan, component, event, {
        level,
        why: reason(plan, component, last, failures),
        affected,
      }),
      details: { healthy: classOf(level) !== Class.failed, error },
      timestamp: new Date(now).toISOString(),
      root: component,
      affected,
      suppressed_by: [],
    },
  };
}

/** As the platform has it: critical for severe and critical, warning for moderate and minor. */
function severityOf(event: NoticeEvent, level: Level): HealthNotice['severity'] {
  if (event === 'flapping_started') return 'warning';
  const severities = {
    [Class.fine]: 'recovery',
    [Class.degraded]: 'warning',
    [Class.failed]: 'critical',
  } as const;
  return severities[classOf(level)];
}

function sentence(
  plan: HealthPlan,
  component: ComponentName,
  event: NoticeEvent,
  { level, why, affected }: { level: Level; why: string; affected: ComponentName[] },
): string {
  const state = {
    [Class.fine]: 'works',
    [Class.degraded]: `is degraded (${levelName(level)}): ${why}`,
    [Class.failed]: `has failed (${levelName(level)}): ${why}`,
  }[classOf(level)];
  if (plan.components[component].monitoring !== 'probed') return `${component} is not checked any more`;
  switch (event) {
    case 'failure':
      return `${component} ${state}${affected.length > 0 ? `; affected: ${affected.join(', ')}` : ''}`;
    case 'eased':
      return `${component} works again in part, but ${state}`;
    case 'recovery':
      return `${component} works again`;
    case 'flapping_started':
      return `${component} changes again and again: nothing more is told until it is steady`;
    case 'flapping_ended':
      return `${component} is steady again and ${state}`;
  }
}

/** Why a component is not simply well. */
function reason(
  plan: HealthPlan,
  component: ComponentName,
  last: ProbeResult | null,
  failures: boolean[],
): string {
  if (last && levelShown(last, plan.components[component]) > Level.none)
    return last.error ?? `answers in ${last.seconds.toFixed(1)} s`;
  const failed = failures.filter(Boolean).length;
  return failed > 0
    ? `${failed} of its last ${failures.length} probes failed`
    : 'though its last probe was good';
}
