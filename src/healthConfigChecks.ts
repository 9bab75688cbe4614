// What is wrong between fields of the health configuration, each of which may be good by itself.
import {
  COMPONENT_NAMES,
  COMPONENTS,
  type ComponentName,
  DEFAULT_BREAKER,
} from './domain/healthComponents.ts';
import { type DependencyGraph, dependencyCycles } from './domain/healthGraph.ts';
import { DERIVED } from './healthDefaults.ts';

/** One sentence for each contradiction. The content need not be well-formed: what is not is told elsewhere. */
export function contradictions(content: unknown): string[] {
  const components = field(content, 'components');
  return [
    ...COMPONENT_NAMES.flatMap((name) => {
      const breaker = field(field(components, name), 'breaker');
      const order = ['openSeconds', 'maxOpenSeconds'] as const;
      return tooLarge(breaker, `components.${name}.breaker`, order, DEFAULT_BREAKER);
    }),
    ...graphFaults(components),
  ];
}

/** The first field may not be larger than the second. */
function tooLarge<Field extends string>(
  given: unknown,
  place: string,
  [smaller, larger]: readonly [Field, Field],
  defaults: Record<Field, number>,
): string[] {
  const [least, most] = [smaller, larger].map((name) => field(given, name) ?? defaults[name]) as [
    unknown,
    unknown,
  ];
  if (typeof least !== 'number' || typeof most !== 'number' || least <= most) return [];
  return [`${place}.${smaller} is ${least}: expected at most ${larger}, which is ${most}.`];
}

function graphFaults(components: unknown): string[] {
  const graph: DependencyGraph = new Map(
    COMPONENT_NAMES.map((name) => [name, dependenciesOf(components, name)]),
  );
  const cycles = dependencyCycles(graph).map(
    (cycle) => `components depend on themselves, ${[...cycle, cycle[0]].join(' → ')}: expected no circle.`,
  );
  const groundless = DERIVED.filter((name) => graph.get(name)?.length === 0).map(
    (name) =>
      `components.${name}.dependsOn is {}: expected at least one, for ${name} fares as what it depends on.`,
  );
  return [...cycles, ...groundless];
}

function dependenciesOf(components: unknown, name: ComponentName): ComponentName[] {
  const given = field(field(components, name), 'dependsOn') ?? COMPONENTS[name].dependsOn;
  return COMPONENT_NAMES.filter((other) => field(given, other) !== undefined);
}

/** Undefined where there is none, of whatever `value` is. */
const field = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name]
    : undefined;
