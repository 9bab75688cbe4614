import { metricMeter } from '@temporalio/workflow';
import { type HealthPlan, type HealthRecord, Level } from '../domain/health.ts';
import { COMPONENT_NAMES } from '../domain/healthComponents.ts';
import type { Components } from '../domain/healthCycle.ts';
import { errorRate } from '../domain/healthLevels.ts';

/**
 * What the worker that runs the cycle exports, by the platform's names. Another worker may have older values from a time
 * when it ran the cycle: `service_health_checked_timestamp_seconds` says which are of now.
 */
export function measureHealth(
  plan: HealthPlan,
  components: Components,
  { transitions, notices }: HealthRecord,
  now: number,
): void {
  const state = metricMeter.createGauge(
    'service_health_state',
    'int',
    undefined,
    '1 while it serves, 0 else',
  );
  const level = metricMeter.createGauge(
    'service_degradation_level',
    'int',
    undefined,
    '0 none, 1 minor, 2 moderate, 3 severe, 4 critical',
  );
  const errors = metricMeter.createGauge(
    'service_error_rate',
    'float',
    undefined,
    'share of failed probes among the last ones',
  );
  for (const service of COMPONENT_NAMES) {
    const { standing, evidence } = components[service];
    level.set(standing.level, { service });
    if (plan.components[service].monitoring === 'unmonitored') continue;
    state.set(standing.level >= Level.severe ? 0 : 1, { service });
    errors.set(errorRate(evidence.failures), { service });
  }
  metricMeter
    .createGauge('service_health_checked_timestamp_seconds', 'float', undefined, 'when the last cycle ended')
    .set(now / 1000);
  const cascading = metricMeter.createCounter(
    'cascading_failures',
    undefined,
    'times that an outage of one component affected another',
  );
  for (const { component, suppressed_by } of transitions)
    for (const source of suppressed_by)
      cascading.add(1, { source_service: source, affected_service: component });
  const told = metricMeter.createCounter('degradation_notices', undefined, 'notices for degradation.events');
  for (const { severity } of notices) told.add(1, { severity });
}
