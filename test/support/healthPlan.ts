import type { ComponentPlan, HealthPlan, HealthRules } from '../../src/domain/health.ts';
import {
  COMPONENT_NAMES,
  COMPONENTS,
  type ComponentName,
  DEFAULT_BREAKER,
} from '../../src/domain/healthComponents.ts';

/** The platform's graph with every component probed, unless `components` says otherwise. */
export function healthPlan({
  rules = {},
  components = {},
  ...others
}: {
  version?: string;
  intervalSeconds?: number;
  rules?: Partial<HealthRules>;
  components?: Partial<Record<ComponentName, Partial<ComponentPlan>>>;
} = {}): HealthPlan {
  const component = (name: ComponentName): ComponentPlan => ({
    monitoring: 'probed',
    dependsOn: COMPONENTS[name].dependsOn,
    slowSeconds: [5, 10, 15],
    errorRates: [0.1, 0.2],
    ...(COMPONENTS[name].hasBreaker && { breaker: DEFAULT_BREAKER }),
    ...components[name],
  });
  return {
    version: 'test',
    intervalSeconds: 30,
    ...others,
    rules: {
      softIntervalSeconds: 5,
      down: 3,
      up: 2,
      graceSeconds: 60,
      suppressionSeconds: 300,
      errorWindow: 20,
      ...rules,
    },
    components: Object.fromEntries(
      COMPONENT_NAMES.map((name) => [name, component(name)]),
    ) as HealthPlan['components'],
  };
}
