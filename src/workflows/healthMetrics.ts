import { metricMeter } from '@temporalio/workflow';
import type { HealthPlan, HealthRecord } from '../domain/health.ts';
import { COMPONENT_NAMES } from '../domain/healthComponents.ts';
import { errorRateShown } from '../domain/healthLevels.ts';
import type { Components } from '../domain/healthState.ts';
import { isHealthy } from '../domain/healthStatus.ts';

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
  const blind = metricMeter.createGauge(
    'service_probe_unknown',
    'int',
    undefined,
    '1 while the probing itself fails',
  );
  for (const service of COMPONENT_NAMES) {
    const { standing, evidence, last } = components[service];
    level.set(standing.level, { service });
    if (plan.components[service].monitoring === 'unmonitored') continue;
    const healthy = isHealthy(plan, components, service);
    if (healthy !== null) state.set(healthy ? 1 : 0, { service });
    errors.set(errorRateShown(evidence, plan.rules), { service });
    blind.set(last?.outcome === 'unknown' ? 1 : 0, { service });
  }
  metricMeter
    .createGauge('service_health_checked_timestamp_seconds', 'float', undefined, 'when the last cycle ended')
    .set(now / 1000);
  const cascading = metricMeter.createCounter(
    'cascading_failures',
    undefined,
    'times that an outage of one component affected another',
  );
  for (const { component, event, suppressed_by } of transitions)
    for (const source of suppressed_by)
      if (event === 'cascading') cascading.add(1, { source_service: source, affected_service: component });
  const told = metricMeter.createCounter('degradation_notices', undefined, 'notices for degradation.events');
  for (const { severity } of notices) told.add(1, { severity });
}
