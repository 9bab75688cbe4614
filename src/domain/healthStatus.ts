import {
  type ComponentPlan,
  type HealthPlan,
  type HealthTransition,
  Level,
  type LevelName,
  levelName,
} from './health.ts';
import type { BreakerState } from './healthBreaker.ts';
import { affectedBy, Class, classOf, explain } from './healthCascade.ts';
import { COMPONENT_NAMES, COMPONENTS, type ComponentName, isComponentName } from './healthComponents.ts';
import { errorRateShown } from './healthLevels.ts';
import type { HealthMemory } from './healthMemory.ts';
import { type ComponentState, type Components, ownLevel, standingsOf } from './healthState.ts';

/** The answer to the query `status`. Times are ISO 8601, durations seconds. */
export interface HealthStatus {
  state: 'starting' | 'checking' | 'paused';
  overall_level: LevelName;
  affected_components: ComponentName[];
  healthy_components: ComponentName[];
  total_components: number;
  /** When the last cycle ended. */
  timestamp: string | null;
  recommendations: string[];
  mitigation_actions: string[];
  roots: Root[];
  components: Partial<Record<ComponentName, ComponentStatus>>;
  /** Transitions and notices that Postgres has not taken yet, and why. */
  unwritten: number;
  /** Notices that the webhook has not taken yet, and why. */
  unsent: number;
  webhook_error: string | null;
  last_error: string | null;
}

export interface Root {
  component: ComponentName;
  level: LevelName;
  since: string;
  affected: ComponentName[];
}

export interface ComponentStatus {
  level: LevelName;
  /** Null where nothing is known: it is not monitored, or the last probe was no evidence of anything. */
  healthy: boolean | null;
  monitoring: ComponentPlan['monitoring'];
  response_time: number | null;
  error_rate: number;
  breaker: BreakerState['state'] | null;
  since: string;
  error: string | null;
  suppressed_by?: ComponentName[];
  flapping?: true;
  maintenance_until?: string;
}

/** The answer to the query `component`: its status, and what that rests on. */
export interface ComponentDetails extends ComponentStatus {
  name: ComponentName;
  depends_on: ComponentPlan['dependsOn'];
  checked_at: string | null;
  /** Of a redundancy group. */
  members?: Record<string, { outcome: string; seconds: number; error?: string }>;
  /** What the last probes showed, the newest last. */
  last_levels: LevelName[];
  told: LevelName;
  recent: HealthTransition[];
}

export type Breakers = Partial<
  Record<ComponentName, { state: BreakerState['state']; open_until: string | null; times_open: number }>
>;

export function statusOf(memory: HealthMemory): HealthStatus {
  const { plan, components, paused, checkedAt, unwritten, unsent, lastError, webhookError } = memory;
  return {
    state: paused ? 'paused' : plan ? 'checking' : 'starting',
    timestamp: checkedAt === null ? null : iso(checkedAt),
    unwritten: unwritten.transitions.length + unwritten.notices.length,
    last_error: lastError,
    unsent: unsent.length,
    webhook_error: webhookError,
    ...(plan ? pictureOf(plan, components) : NOTHING),
  };
}

const NOTHING = {
  overall_level: 'none',
  affected_components: [],
  healthy_components: [],
  total_components: COMPONENT_NAMES.length,
  recommendations: [],
  mitigation_actions: [],
  roots: [],
  components: {},
} satisfies Partial<HealthStatus>;

function componentStatus(plan: HealthPlan, components: Components, name: ComponentName): ComponentStatus {
  const state = components[name];
  const { monitoring, breaker } = plan.components[name];
  const { standing, last, evidence, flapping, maintenanceUntil } = state;
  return {
    level: levelName(standing.level),
    healthy: isHealthy(plan, components, name),
    monitoring,
    response_time: last?.seconds ?? null,
    error_rate: errorRateShown(evidence, plan.rules),
    breaker: breaker ? state.breaker.state : null,
    since: iso(state.since),
    error: last?.error ?? null,
    ...(standing.suppressedBy.length > 0 && { suppressed_by: standing.suppressedBy }),
    ...(flapping.flapping && { flapping: true as const }),
    ...(maintenanceUntil !== null && { maintenance_until: iso(maintenanceUntil) }),
  };
}

/** Whether it serves; a derived component does while nothing that it cannot do without has failed. */
export function isHealthy(plan: HealthPlan, components: Components, name: ComponentName): boolean | null {
  const state = components[name];
  switch (plan.components[name].monitoring) {
    case 'unmonitored':
      return null;
    case 'derived': {
      const levels = Object.fromEntries(
        COMPONENT_NAMES.map((each) => [each, ownLevel(components[each])]),
      ) as Record<ComponentName, Level>;
      return explain(plan, levels, name, Class.failed).length === 0;
    }
    case 'probed':
      if (state.evidence.shown.length === 0 || state.last?.outcome === 'unknown') return null;
      return classOf(ownLevel(state)) !== Class.failed;
  }
}

function rootsOf(components: Components): Root[] {
  return COMPONENT_NAMES.filter((name) => {
    const { standing } = components[name];
    return standing.level > Level.none && standing.suppressedBy.length === 0;
  }).map((name) => ({
    component: name,
    level: levelName(components[name].standing.level),
    since: iso(components[name].since),
    affected: affectedBy(standingsOf(components), name),
  }));
}

/** The platform's health, with a plan at hand. */
function pictureOf(plan: HealthPlan, components: Components) {
  const names = COMPONENT_NAMES;
  const statuses = Object.fromEntries(
    names.map((name) => [name, componentStatus(plan, components, name)]),
  ) as Record<ComponentName, ComponentStatus>;
  const roots = rootsOf(components);
  return {
    overall_level: levelName(Math.max(...names.map((name) => components[name].standing.level)) as Level),
    affected_components: names.filter((name) => components[name].standing.level > Level.none),
    healthy_components: names.filter(
      (name) => statuses[name].healthy === true && statuses[name].level === 'none',
    ),
    total_components: names.length,
    recommendations: [
      ...probingAdvice(components),
      ...roots.map(({ component }) => advice(components, component)),
    ],
    mitigation_actions: roots.map(({ component }) => `${component}: ${COMPONENTS[component].mitigation}`),
    roots,
    components: statuses,
  };
}

function advice(components: Components, name: ComponentName): string {
  const { last, standing } = components[name];
  if (standing.level >= Level.severe) return `${name}: ${COMPONENTS[name].recommendation}`;
  return `${name} works, but not well: ${last?.error ?? `it answered in ${last?.seconds.toFixed(1)} s`}; look at its load and its log.`;
}

function probingAdvice(components: Components): string[] {
  const blind = COMPONENT_NAMES.filter((name) => components[name].last?.outcome === 'unknown');
  if (blind.length === 0) return [];
  return [
    `The probing itself fails for ${blind.join(', ')}: look at the worker's network, sockets and memory.`,
  ];
}

export function breakersOf({ plan, components }: HealthMemory): Breakers {
  const guarded = COMPONENT_NAMES.filter((name) => plan?.components[name].breaker);
  return Object.fromEntries(
    guarded.map((name) => {
      const { breaker } = components[name];
      const open_until = breaker.state === 'open' ? iso(breaker.until) : null;
      return [name, { state: breaker.state, open_until, times_open: 'times' in breaker ? breaker.times : 0 }];
    }),
  );
}

/** @throws Error that says what to ask for: of a component that is none, or before the first cycle */
export function componentDetails(
  { plan, components, history }: HealthMemory,
  name: unknown,
): ComponentDetails {
  if (!isComponentName(name))
    throw new Error(
      `component ${JSON.stringify(name)} is unknown: expected one of ${COMPONENT_NAMES.join(', ')}`,
    );
  if (!plan) throw new Error('nothing is known yet: the first cycle is under way');
  const { last, evidence, told } = components[name];
  return {
    name,
    ...componentStatus(plan, components, name),
    depends_on: plan.components[name].dependsOn,
    checked_at: last ? iso(last.at) : null,
    ...(last?.members && { members: last.members }),
    last_levels: evidence.shown.map(levelName),
    told: levelName(told.level),
    recent: history.filter(({ component }) => component === name).slice(-10),
  };
}

/** For the Temporal UI: the roots first, then a line for each component that is not simply well. */
export function describeHealth({ plan, components, paused }: HealthMemory): string {
  if (!plan) return 'the first cycle is under way';
  const { overall_level, roots, healthy_components } = pictureOf(plan, components);
  const lines = COMPONENT_NAMES.filter((name) => components[name].standing.level > Level.none)
    .sort((one, other) => components[other].standing.level - components[one].standing.level)
    .map((name) => tableLine(name, components[name]));
  const headline = `**${paused ? 'paused' : overall_level}** · ${healthy_components.length} of ${COMPONENT_NAMES.length} healthy`;
  const causes = roots.map(
    ({ component, since, affected }) =>
      `- **${component}** since ${since}${affected.length > 0 ? `, affects ${affected.join(', ')}` : ''}`,
  );
  const table = lines.length > 0 ? ['| component | level | because |', '|---|---|---|', ...lines] : [];
  return [headline, probingAdvice(components).join('\n'), causes.join('\n'), table.join('\n')]
    .filter((part) => part !== '')
    .join('\n\n');
}

function tableLine(name: ComponentName, { standing, last, flapping }: ComponentState): string {
  const because =
    standing.suppressedBy.length > 0
      ? `follows from ${standing.suppressedBy.join(', ')}`
      : (last?.error ?? `answers in ${last?.seconds.toFixed(1) ?? '?'} s`);
  const text = `${because}${flapping.flapping ? ' (flapping)' : ''}`
    .replaceAll('|', '\\|')
    .replaceAll('\n', ' ');
  return `| ${name} | ${levelName(standing.level)} | ${text} |`;
}

const iso = (at: number): string => new Date(at).toISOString();
