import type { HealthPlan } from '../domain/health.ts';
import type { ComponentName } from '../domain/healthComponents.ts';

/** What a probe has to reach. Addresses and secrets stay in the worker: the workflow sees names only. */
export type ProbeTarget =
  | { kind: 'postgres'; url: string }
  | { kind: 'kafka' }
  | { kind: 'redis'; url: string }
  | { kind: 'temporal' }
  | { kind: 'somabrain'; url: string }
  | { kind: 'http'; url: string }
  | { kind: 's3'; endpoint: string; bucket: string; accessKeyId: string; secretAccessKey: string }
  | { kind: 'filesystem'; root: string }
  | { kind: 'redisStore'; url: string }
  | BackupsTarget;

/** The catalogue of backups in the database of `url`: those of `source` are judged. */
export interface BackupsTarget {
  kind: 'backups';
  url: string;
  source: string;
  /** How old the newest verified one may be. */
  maxAgeHours: number;
}

/** One thing to probe, and how long it may take to answer. */
export interface Probing {
  target: ProbeTarget;
  limitSeconds: number;
}

/** A component's probe, or its redundancy group: the first member is the one that should serve. */
export type ComponentProbing = Probing | { members: Record<string, Probing> };

/** What the worker's configuration says of health: the part that the workflow judges by, and the part that stays here. */
export interface HealthModel {
  plan: HealthPlan;
  probing: Partial<Record<ComponentName, ComponentProbing>>;
}
