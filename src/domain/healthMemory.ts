import {
  HEALTH_WORKFLOW_ID,
  type HealthNotice,
  type HealthPlan,
  type HealthRecord,
  type HealthTransition,
  levelName,
} from './health.ts';
import { COMPONENT_NAMES, type ComponentName, isComponentName } from './healthComponents.ts';
import { type Components, unknownComponents } from './healthState.ts';

/** All that the health cycle remembers. Plain JSON: it goes from run to run of the workflow. */
export interface HealthMemory {
  /** Null until the first cycle. */
  plan: HealthPlan | null;
  components: Components;
  paused: boolean;
  /** Epoch ms of the last cycle. */
  checkedAt: number | null;
  /** The last transitions, the newest last. */
  history: HealthTransition[];
  /** What Postgres has not taken yet, in order. */
  unwritten: HealthRecord;
  /** What the webhook has not taken yet, in order. */
  unsent: HealthNotice[];
  lastError: string | null;
  webhookError: string | null;
}

export interface HealthCheckInput {
  /** From one cycle to the next; by default that of the configuration, which is 30. */
  intervalSeconds?: number;
  /** What the former run left; for a start, leave it out. */
  memory?: HealthMemory;
  /** Leaves for a new run at this many events, for tests; by default Temporal's own suggestion decides. */
  historyLimit?: number;
}

const HISTORY = 200;
/** Of transitions that Postgres cannot take; a day of an outage with everything flapping. Notices are never dropped. */
const MAX_UNWRITTEN = 1_000;
/** A run has these events before its first cycle: with fewer it would only ever continue as new. */
const MIN_HISTORY = 20;
const MAX_INTERVAL_SECONDS = 3_600;

const NOTHING_WRITTEN: HealthRecord = { transitions: [], notices: [], gates: [] };

export const nothingKnown = (now: number): HealthMemory => ({
  plan: null,
  components: unknownComponents(now),
  paused: false,
  checkedAt: null,
  history: [],
  unwritten: NOTHING_WRITTEN,
  unsent: [],
  lastError: null,
  webhookError: null,
});

/** The memory of an earlier run, also of an earlier version that knew fewer components: they begin as unknown. */
export function completed(memory: HealthMemory, now: number): HealthMemory {
  const isComplete = COMPONENT_NAMES.every((name) => memory.plan?.components[name]);
  return {
    ...nothingKnown(now),
    ...memory,
    components: { ...unknownComponents(now), ...memory.components },
    plan: isComplete ? memory.plan : null,
  };
}

/** Takes in what a cycle brought. */
export function remembered(
  memory: HealthMemory,
  cycle: { plan: HealthPlan; components: Components; record: HealthRecord; now: number },
): void {
  memory.plan = cycle.plan;
  memory.components = cycle.components;
  memory.checkedAt = cycle.now;
  keep(memory, cycle.record);
  memory.unsent.push(...cycle.record.notices);
}

function keep(memory: HealthMemory, record: HealthRecord): void {
  memory.history = [...memory.history, ...record.transitions].slice(-HISTORY);
  memory.unwritten = joined(memory.unwritten, record);
}

/** Two records as one; of a component's gates the later one counts. */
function joined(earlier: HealthRecord, later: HealthRecord): HealthRecord {
  const outdated = new Set(later.gates.map(({ component }) => component));
  return {
    transitions: [...earlier.transitions, ...later.transitions].slice(-MAX_UNWRITTEN),
    notices: [...earlier.notices, ...later.notices],
    gates: [...earlier.gates.filter(({ component }) => !outdated.has(component)), ...later.gates],
  };
}

export const isWritten = ({ unwritten: { transitions, notices, gates } }: HealthMemory): boolean =>
  transitions.length + notices.length + gates.length === 0;

/** Postgres has taken this record; what came meanwhile is left. */
export function written(memory: HealthMemory, record: HealthRecord): void {
  const taken = new Set<unknown>([...record.transitions, ...record.notices, ...record.gates]);
  const { transitions, notices, gates } = memory.unwritten;
  memory.unwritten = {
    transitions: transitions.filter((transition) => !taken.has(transition)),
    notices: notices.filter((notice) => !taken.has(notice)),
    gates: gates.filter((gate) => !taken.has(gate)),
  };
}

/**
 * The last transitions, the newest first.
 * @throws Error if `limit` is not a whole number from 1 to 200
 */
export function lastTransitions({ history }: HealthMemory, limit: unknown = 50): HealthTransition[] {
  if (!isWholeNumber(limit, 1, HISTORY))
    throw new Error(`limit is ${JSON.stringify(limit)}: expected a whole number from 1 to ${HISTORY}`);
  return history.slice(-(limit as number)).reverse();
}

export interface MaintenanceOrder {
  components: readonly ComponentName[];
  /** Epoch ms; null ends it. */
  until: number | null;
}

/** Without a zone a time would mean another one on each worker. */
const WITH_ZONE = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/;

/** The order that a signal brought, or a sentence that says what is wrong with it. */
export function checkedMaintenance(order: unknown, now: number): MaintenanceOrder | string {
  const { component, until = null } = (typeof order === 'object' && order !== null ? order : {}) as {
    component?: unknown;
    until?: unknown;
  };
  if (component !== 'all' && !isComponentName(component)) {
    return `maintenance: component is ${JSON.stringify(component)}, expected "all" or one of ${COMPONENT_NAMES.join(', ')}`;
  }
  const time = typeof until === 'string' && WITH_ZONE.test(until) ? Date.parse(until) : Number.NaN;
  if (until !== null && !(time > now)) {
    return `maintenance: until is ${JSON.stringify(until)}, expected a time ahead such as 2026-01-31T18:00:00Z, or null to end it`;
  }
  return {
    components: component === 'all' ? COMPONENT_NAMES : [component],
    until: until === null ? null : time,
  };
}

/** Begins or ends maintenance windows. */
export function maintained(memory: HealthMemory, { components, until }: MaintenanceOrder, now: number): void {
  const transitions: HealthTransition[] = [];
  for (const component of components) {
    const state = memory.components[component];
    if ((state.maintenanceUntil === null) !== (until === null)) {
      const level = levelName(state.standing.level);
      transitions.push({
        component,
        event: until === null ? 'maintenance_ended' : 'maintenance_started',
        from: level,
        to: level,
        at: new Date(now).toISOString(),
        suppressed_by: [],
        error: null,
      });
    }
    memory.components[component] = { ...state, maintenanceUntil: until };
  }
  keep(memory, { transitions, notices: [], gates: [] });
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Sentences that say what is wrong with the workflow's id and input; none if nothing is. */
export function healthInputFaults(workflowId: string, input: unknown): string[] {
  // Two cycles would tell everything twice.
  if (workflowId !== HEALTH_WORKFLOW_ID)
    return [`workflow id is "${workflowId}": expected ${HEALTH_WORKFLOW_ID}, of which there is one`];
  if (!isObject(input))
    return [`healthCheckCycle takes no input, or an object: got ${JSON.stringify(input)}`];
  const { intervalSeconds, memory, historyLimit, ...others } = input;
  const faults = Object.keys(others).map(
    (name) => `healthCheckCycle does not know "${name}": expected intervalSeconds, or nothing`,
  );
  if (intervalSeconds !== undefined && !isWholeNumber(intervalSeconds, 1, MAX_INTERVAL_SECONDS)) {
    faults.push(
      `intervalSeconds is ${JSON.stringify(intervalSeconds)}: expected a whole number from 1 to ${MAX_INTERVAL_SECONDS}`,
    );
  }
  if (historyLimit !== undefined && !isWholeNumber(historyLimit, MIN_HISTORY, Number.MAX_SAFE_INTEGER)) {
    faults.push(
      `historyLimit is ${JSON.stringify(historyLimit)}: expected a whole number from ${MIN_HISTORY} on`,
    );
  }
  if (memory !== undefined && !isMemory(memory))
    faults.push('memory is what an earlier run left, for a start leave it out: this is none');
  return faults;
}

const isWholeNumber = (value: unknown, least: number, most: number): boolean =>
  Number.isInteger(value) && (value as number) >= least && (value as number) <= most;

function isMemory(memory: unknown): memory is HealthMemory {
  if (!isObject(memory) || !isObject(memory.components) || !isObject(memory.unwritten)) return false;
  const { components, unwritten } = memory;
  const complete = Object.values(components).every((state) => {
    return isObject(state) && [state.evidence, state.alone, state.told, state.standing].every(isObject);
  });
  const lists = [memory.history, memory.unsent, unwritten.transitions, unwritten.notices, unwritten.gates];
  return complete && lists.every(Array.isArray) && (memory.plan === null || isObject(memory.plan));
}
