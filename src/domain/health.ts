// The words of health checking: what crosses the borders between the workflow, its activities and its users.
import type { BreakerPlan, ComponentName, Edge } from './healthComponents.ts';
import type { TierGate } from './uploadTiers.ts';

/** Levels compare as numbers; people and neighbours see their names. */
export const Level = { none: 0, minor: 1, moderate: 2, severe: 3, critical: 4 } as const;
export type LevelName = keyof typeof Level;
export type Level = (typeof Level)[LevelName];

export const levelName = (level: Level): LevelName =>
  (Object.keys(Level) as LevelName[]).find((name) => Level[name] === level)!;

/** Workflow type and only id of the health cycle: there is one a deployment. */
export const HEALTH_WORKFLOW_ID = 'health-check-cycle';
export const HEALTH_SUMMARY = 'checks all components, finds the roots of outages, tells of them once';

/** What the workflow has to know to judge; made by the worker from its configuration, and sent again when that changes. */
export interface HealthPlan {
  /** Differs when anything else in here differs. */
  version: string;
  intervalSeconds: number;
  rules: HealthRules;
  components: Record<ComponentName, ComponentPlan>;
}

export interface HealthRules {
  /** Pause between probes of a component whose state is about to change. */
  softIntervalSeconds: number;
  /** So many probes in a row have to be worse before a component counts as worse, */
  down: number;
  /** and so many better before it counts as better. */
  up: number;
  /** A component that was never seen well may take this long to start. */
  graceSeconds: number;
  /** Least time between two notices of a component, except of outages and recoveries. */
  suppressionSeconds: number;
  /** Error rates are of the last so many probes; before that there is none. */
  errorWindow: number;
}

export interface ComponentPlan {
  /** `derived`: has no probe of its own and fares as what it depends on. `unmonitored`: no address is configured. */
  monitoring: 'probed' | 'derived' | 'unmonitored';
  dependsOn: Partial<Record<ComponentName, Edge>>;
  /** Response times above which it is minor, moderate, severe. */
  slowSeconds: [minor: number, moderate: number, severe: number];
  /** Shares of failed probes above which it is minor, moderate. */
  errorRates: [minor: number, moderate: number];
  breaker?: BreakerPlan;
}

/** What one probe found. `unknown` when it was the probing itself that failed: evidence of nothing. */
export interface ProbeResult {
  outcome: 'up' | 'down' | 'unknown';
  /** How long it took to answer or to fail, in seconds. */
  seconds: number;
  /** The probe gave up waiting, which is also what a failure of our own network looks like. */
  timedOut?: boolean;
  /** No name was found, or no way there: in several components at once that is our own resolver or network. */
  unrouted?: boolean;
  /** It answers, but is at least this bad: it says so itself, or a part of its redundancy is gone. */
  atLeast?: 'minor' | 'moderate';
  /** Why it is not simply up; without secrets, at most 300 characters. */
  error?: string;
  /** Of a redundancy group: what each member answered. */
  members?: Record<string, Omit<ProbeResult, 'members' | 'atLeast' | 'unrouted'>>;
}

export type ProbeResults = Partial<Record<ComponentName, ProbeResult>>;

export interface ProbeRequest {
  /** Probes only these; by default all that have probes. */
  only?: ComponentName[];
  /** The plan that the caller has; the report brings another one where the worker has another. */
  planVersion: string | null;
}

export interface ProbeReport {
  plan?: HealthPlan;
  results: ProbeResults;
}

export type TransitionEvent =
  | 'failure'
  | 'recovery'
  | 'change'
  | 'cascading'
  | 'flapping_started'
  | 'flapping_ended'
  | 'maintenance_started'
  | 'maintenance_ended';

/** Something that became otherwise with a component: kept in the workflow's history and in Postgres. */
export interface HealthTransition {
  component: ComponentName;
  event: TransitionEvent;
  from: LevelName;
  to: LevelName;
  /** ISO 8601. */
  at: string;
  /** The failed components that explain it. */
  suppressed_by: ComponentName[];
  error: string | null;
}

export type NoticeEvent = 'failure' | 'eased' | 'recovery' | 'flapping_started' | 'flapping_ended';

/** A message for `degradation.events`. Its key and headers are those that the platform's own notices have. */
export interface HealthNotice {
  /** Made of component, event and time: a notice that is written twice is one message. */
  idempotencyKey: string;
  component: ComponentName;
  severity: 'info' | 'warning' | 'critical' | 'recovery';
  payload: {
    component: ComponentName;
    event: NoticeEvent;
    old_status: LevelName;
    new_status: LevelName;
    severity: HealthNotice['severity'];
    message: string;
    details: { healthy: boolean; error: string | null };
    /** ISO 8601. */
    timestamp: string;
    /** The component whose outage this is: itself. */
    root: ComponentName;
    /** What follows from it at this moment; at a recovery, what had followed. */
    affected: ComponentName[];
    suppressed_by: ComponentName[];
  };
}

/** Whether a component, or a tier of the storage, is worth trying. While `openUntil` is ahead, only trials are. */
export interface Gate {
  component: ComponentName | TierGate;
  /** ISO 8601; null while it is. */
  openUntil: string | null;
}

/** What one cycle leaves to be written down, all of it or nothing. Writing it twice changes nothing. */
export interface HealthRecord {
  transitions: HealthTransition[];
  notices: HealthNotice[];
  gates: Gate[];
}
