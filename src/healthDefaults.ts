// What holds for health checks where SA01_HEALTH_CONFIG says nothing else.
import type { HealthRules } from './domain/health.ts';
import type { ComponentName } from './domain/healthComponents.ts';

export const DEFAULT_INTERVAL_SECONDS = 30;

export const DEFAULT_RULES: HealthRules = {
  softIntervalSeconds: 5,
  down: 3,
  up: 2,
  graceSeconds: 60,
  suppressionSeconds: 300,
  errorWindow: 20,
};

/** The platform's. */
export const DEFAULT_SLOW_SECONDS: [number, number, number] = [5, 10, 15];
export const DEFAULT_ERROR_RATES: [number, number] = [0.1, 0.2];

/** Where slowness is worth a level of its own, a probe has to wait for longer than the slowest one. */
export const DEFAULT_LIMIT_SECONDS = 20;
export const LIMIT_SECONDS: Partial<Record<ComponentName, number>> = {
  database: 5,
  kafka: 5,
  redis: 5,
  temporal: 5,
  storage: 10,
  // As its catalogue's: a silent Postgres must not hold up the cycle for longer.
  backup_service: 5,
};

/** They have no address of their own: they fare as what they depend on. */
export const DERIVED: readonly ComponentName[] = ['upload_service', 'task_scheduler'];
