import type { ComponentName } from './healthComponents.ts';

/** What each component depends on. */
export type DependencyGraph = ReadonlyMap<ComponentName, readonly ComponentName[]>;

/**
 * Circles of components that depend on one another; none in a graph that can be judged. At least one is found where there
 * is any, each begins with the component that is first by name, and none is told twice.
 */
export function dependencyCycles(graph: DependencyGraph): ComponentName[][] {
  const cycles = new Map<string, ComponentName[]>();
  const finished = new Set<ComponentName>();
  const visit = (name: ComponentName, path: ComponentName[]): void => {
    const start = path.indexOf(name);
    if (start !== -1) {
      const cycle = fromFirstByName(path.slice(start));
      cycles.set(cycle.join(), cycle);
    } else if (!finished.has(name)) {
      for (const on of graph.get(name) ?? []) visit(on, [...path, name]);
      finished.add(name);
    }
  };
  for (const name of graph.keys()) visit(name, []);
  return [...cycles.values()];
}

function fromFirstByName(cycle: ComponentName[]): ComponentName[] {
  const first = cycle.indexOf(cycle.toSorted()[0]!);
  return [...cycle.slice(first), ...cycle.slice(0, first)];
}
