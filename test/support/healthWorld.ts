// A platform whose components break and mend at given times, with a clock of its own, watched as the workflow watches
// the real one: everything every 30 s, and in between what is unsettled.
import type {
  HealthPlan,
  HealthRecord,
  HealthRules,
  ProbeResult,
  ProbeResults,
} from '../../src/domain/health.ts';
import {
  COMPONENT_NAMES,
  COMPONENTS,
  type ComponentName,
  DEFAULT_BREAKER,
} from '../../src/domain/healthComponents.ts';
import { advance, unsettled } from '../../src/domain/healthCycle.ts';
import { type Components, unknownComponents } from '../../src/domain/healthState.ts';
import {
  DEFAULT_ERROR_RATES,
  DEFAULT_INTERVAL_SECONDS,
  DEFAULT_RULES,
  DEFAULT_SLOW_SECONDS,
} from '../../src/healthDefaults.ts';

export const RULES = DEFAULT_RULES;

type Monitoring = HealthPlan['components'][ComponentName]['monitoring'];

/** The real graph. Everything is probed unless said otherwise. */
export function healthPlan(
  rules: Partial<HealthRules> = {},
  monitoring: Partial<Record<ComponentName, Monitoring>> = {},
): HealthPlan {
  const planned = COMPONENT_NAMES.map((name) => [
    name,
    {
      monitoring: monitoring[name] ?? 'probed',
      dependsOn: COMPONENTS[name].dependsOn,
      slowSeconds: DEFAULT_SLOW_SECONDS,
      errorRates: DEFAULT_ERROR_RATES,
      ...(COMPONENTS[name].hasBreaker && { breaker: DEFAULT_BREAKER }),
    },
  ]);
  return {
    version: JSON.stringify([rules, monitoring]),
    intervalSeconds: DEFAULT_INTERVAL_SECONDS,
    rules: { ...RULES, ...rules },
    components: Object.fromEntries(planned),
  };
}

/** Times are seconds of the world's clock. */
export interface Span {
  from: number;
  to: number;
}

export interface Incident extends Span {
  component: ComponentName;
  /**
   * `broken`: refuses; `hung`: its probe gives up waiting; `slow`: answers in 12 s, and so does what depends on it;
   * `weak`: says itself that a part of it is gone; `blind`: its probing fails.
   */
  kind: 'broken' | 'hung' | 'slow' | 'weak' | 'blind';
}

export interface Script {
  incidents: Incident[];
  /** Our own network is gone: every probe hangs. */
  network?: Span[];
  maintenance?: (Span & { component: ComponentName })[];
  /** In force from a time on; the first from 0. */
  plans: { from: number; plan: HealthPlan }[];
  seconds: number;
  /** Of the order of probes within a cycle, and of which dependents notice later. */
  seed: number;
  /**
   * Dependents may see the beginning or the end of an outage one probe later than its root. Else only the order of
   * probes within a cycle makes them see it sooner or later.
   */
  late: boolean;
}

export interface Step {
  /** Seconds. */
  at: number;
  full: boolean;
  plan: HealthPlan;
  results: ProbeResults;
  before: Components;
  components: Components;
  record: HealthRecord;
}

const isDuring = ({ from, to }: Span, at: number) => from <= at && at < to;

/** mulberry32 */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const hardBelow = new Map<ComponentName, ComponentName[]>();

/** What a component cannot do without, directly or not. */
export function hardDependencies(name: ComponentName): ComponentName[] {
  const known = hardBelow.get(name);
  if (known) return known;
  const direct = Object.entries(COMPONENTS[name].dependsOn).filter(([, edge]) => edge === 'hard');
  const all = [...new Set(direct.flatMap(([on]) => [on as ComponentName, ...hardDependencies(on as never)]))];
  hardBelow.set(name, all);
  return all;
}

const SECONDS = { fine: 0.1, slow: 12, hung: 4 } as const;

class World {
  private readonly script: Script;
  private readonly random: () => number;
  /** What each saw of the components below it in its last probe. */
  private readonly seen = new Map<ComponentName, string>();

  constructor(script: Script) {
    this.script = script;
    this.random = randomOf(script.seed);
  }

  /** Probes within the two seconds after `at`, in an order of their own, or all at once if some notice later. */
  probe(names: ComponentName[], at: number): ProbeResults {
    const pause = this.script.late ? 0 : 2;
    return Object.fromEntries(names.map((name) => [name, this.answer(name, at + pause * this.random())]));
  }

  private answer(name: ComponentName, at: number): ProbeResult {
    const { network = [] } = this.script;
    if (network.some((span) => isDuring(span, at))) return failed('hung');
    const own = this.kinds([name], at);
    const below = this.kindsBelow(name, at);
    if (own.includes('blind')) return { outcome: 'unknown', seconds: 0, error: 'no sockets left' };
    for (const kind of ['hung', 'broken'] as const)
      if (own.includes(kind) || below.includes(kind)) return failed(kind);
    const isSlow = own.includes('slow') || below.includes('slow');
    const seconds = isSlow ? SECONDS.slow : SECONDS.fine;
    return { outcome: 'up', seconds, ...(own.includes('weak') && { atLeast: 'minor' as const }) };
  }

  private kindsBelow(name: ComponentName, at: number): string {
    const is = this.kinds(hardDependencies(name), at).join();
    const was = this.seen.get(name) ?? is;
    this.seen.set(name, is);
    return this.script.late && is !== was && this.random() < 0.4 ? was : is;
  }

  private kinds(names: ComponentName[], at: number): Incident['kind'][] {
    return this.script.incidents
      .filter((incident) => names.includes(incident.component) && isDuring(incident, at))
      .map(({ kind }) => kind);
  }
}

const failed = (kind: 'broken' | 'hung'): ProbeResult => ({
  outcome: 'down',
  seconds: SECONDS.hung,
  error: kind === 'hung' ? 'no answer' : 'refused',
  ...(kind === 'hung' && { timedOut: true }),
});

/** Watches the world from 0 to the script's end. Epoch ms are the world's. */
export function watch(script: Script): Step[] {
  const world = new World(script);
  const random = randomOf(script.seed + 1);
  const steps: Step[] = [];
  let components = unknownComponents(0);
  const probe = (at: number, only?: ComponentName[]): number => {
    const { plan } = script.plans.findLast(({ from }) => from <= at)!;
    const probed = COMPONENT_NAMES.filter((name) => plan.components[name].monitoring === 'probed');
    const results = world.probe(only ?? probed, at);
    const end = at + 2.5;
    components = maintained(script, components, steps.at(-1)?.at ?? 0, end);
    const before = components;
    const full = only === undefined;
    const { components: after, record } = advance(plan, before, results, { now: end * 1000, full, random });
    components = after;
    steps.push({ at: end, full, plan, results, before, components, record });
    return end;
  };
  for (let next = 0; next < script.seconds; next += 30) {
    let at = probe(next);
    const { plan } = steps.at(-1)!;
    const { down, up, softIntervalSeconds } = plan.rules;
    for (let times = 0; times < Math.max(down, up); times += 1) {
      const names = unsettled(plan, components);
      if (times > 0) at += softIntervalSeconds;
      if (names.length === 0 || at >= next + 30) break;
      at = probe(at, names);
    }
  }
  return steps;
}

/** As the workflow's signal `maintenance` does. */
function maintained(script: Script, components: Components, since: number, now: number): Components {
  const all = { ...components };
  for (const { component, from, to } of script.maintenance ?? [])
    if (since < from && from <= now) all[component] = { ...all[component], maintenanceUntil: to * 1000 };
  return all;
}
