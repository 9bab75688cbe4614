// Health cycles for tests of single cases: in a world, or fed by hand.
import type { HealthPlan, ProbeResult, ProbeResults } from '../../src/domain/health.ts';
import { COMPONENT_NAMES } from '../../src/domain/healthComponents.ts';
import { advance } from '../../src/domain/healthCycle.ts';
import { type Components, unknownComponents } from '../../src/domain/healthState.ts';
import { healthPlan, type Incident, type Script, type Step, watch } from './healthWorld.ts';

export const PLAN = healthPlan();
export const UP: ProbeResult = { outcome: 'up', seconds: 0.1 };
export const DOWN: ProbeResult = { outcome: 'down', seconds: 0.2, error: 'refused' };
export const HUNG: ProbeResult = { outcome: 'down', seconds: 5, timedOut: true, error: 'no answer' };
export const UNKNOWN: ProbeResult = { outcome: 'unknown', seconds: 0, error: 'no sockets left' };

/** What is told: component, event and level. */
export const events = (steps: Step[]): string[] =>
  steps.flatMap(({ record }) =>
    record.notices.map(({ component, payload }) => `${component} ${payload.event} ${payload.new_status}`),
  );
export const messages = (steps: Step[]): string[] =>
  steps.flatMap(({ record }) => record.notices.map(({ payload }) => payload.message));

/** What comes of incidents in a world with the usual plan. */
export const world = (incidents: Incident[], more: Partial<Script> = {}): Step[] =>
  watch({
    incidents,
    seconds: 1200,
    seed: 1,
    late: false,
    plans: [{ from: 0, plan: PLAN }],
    ...more,
  });

/** Cycles that are fed by hand, 30 s apart. */
export class Cycles {
  private now = 0;
  private readonly plan: HealthPlan;
  components: Components = unknownComponents(0);

  constructor(plan: HealthPlan = PLAN, warm = true) {
    this.plan = plan;
    if (warm) this.add(everything(UP));
  }

  /** @returns what is told */
  add(results: ProbeResults, { full = true, seconds = 30 } = {}): string[] {
    this.now += seconds * 1000;
    const moment = { now: this.now, full, random: () => 0 };
    const { components, record } = advance(this.plan, this.components, results, moment);
    this.components = components;
    return record.notices.map(({ component, payload }) => `${component} ${payload.event}`);
  }
}

export const everything = (result: ProbeResult, others: ProbeResults = {}): ProbeResults => ({
  ...Object.fromEntries(COMPONENT_NAMES.map((name) => [name, result])),
  ...others,
});
