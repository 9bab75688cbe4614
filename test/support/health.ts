import type { HealthNotice, HealthRecord, HealthTransition } from '../../src/domain/health.ts';
import type { ComponentName } from '../../src/domain/healthComponents.ts';

const AT = '2026-11-23T08:00:00.123Z';

export const healthTransition = (changes: Partial<HealthTransition> = {}): HealthTransition => ({
  component: 'kafka',
  event: 'failure',
  from: 'none',
  to: 'critical',
  at: AT,
  suppressed_by: [],
  error: 'no broker answers',
  ...changes,
});

export function healthNotice(component: ComponentName = 'kafka', at = AT): HealthNotice {
  return {
    idempotencyKey: `degradation:${component}:${Date.parse(at)}`,
    component,
    severity: 'critical',
    payload: {
      component,
      event: 'failure',
      old_status: 'none',
      new_status: 'critical',
      severity: 'critical',
      message: `${component} does not answer`,
      details: { healthy: false, error: 'no broker answers' },
      timestamp: at,
      root: component,
      affected: ['gateway', 'tool_executor'],
      suppressed_by: [],
    },
  };
}

/** An outage of Kafka with one dependent. */
export const kafkaOutage = (): HealthRecord => ({
  transitions: [
    healthTransition(),
    healthTransition({
      component: 'gateway',
      event: 'cascading',
      to: 'moderate',
      suppressed_by: ['kafka'],
      error: null,
    }),
  ],
  notices: [healthNotice()],
  gates: [
    { component: 'kafka', openUntil: '2100-01-01T00:00:00.000Z' },
    { component: 'database', openUntil: null },
  ],
});
