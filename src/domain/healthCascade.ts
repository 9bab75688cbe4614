import { type HealthPlan, Level } from './health.ts';
import { COMPONENT_NAMES, type ComponentName, type Edge } from './healthComponents.ts';

/** How a component fares, roughly: what is told, and what explains what, goes by these and not by levels. */
export const Class = { fine: 0, degraded: 1, failed: 2 } as const;
export type Class = (typeof Class)[keyof typeof Class];

export const classOf = (level: Level): Class =>
  level >= Level.severe ? Class.failed : level > Level.none ? Class.degraded : Class.fine;

/** What a failed dependency makes of its dependents at least. */
const IMPOSED: Record<Edge, Level> = { hard: Level.moderate, soft: Level.minor };

/** A component's place in what is going on. */
export interface Standing {
  /** Its own level, or that which failed dependencies impose. */
  level: Level;
  /** Roots that explain its own trouble, or that impose theirs on it. Empty: it is fine, or a root itself. */
  suppressedBy: ComponentName[];
}

export type Standings = Record<ComponentName, Standing>;

type Levels = Record<ComponentName, Level>;

/**
 * The roots that explain a `trouble` of component X, by how its dependencies fare.
 *
 * It is explained by a dependency D that fares as badly or worse: X failed and D failed, by a hard edge; X degraded and D
 * degraded or failed, by any edge. X failed is not explained by D that is only slow, nor by a dependency that X can do
 * without. What explains D explains X: the last in the chain is the root.
 */
export function explain(
  plan: HealthPlan,
  levels: Levels,
  name: ComponentName,
  trouble: Class,
): ComponentName[] {
  if (trouble === Class.fine) return [];
  const roots = dependenciesOf(plan, name).flatMap(([on, edge]) => {
    if (trouble === Class.failed && edge === 'soft') return [];
    const its = classOf(levels[on]);
    if (its < trouble) return explain(plan, levels, on, trouble);
    return rootsOr(on, explain(plan, levels, on, its));
  });
  return inOrder(roots);
}

/** Places every component, with a whole cycle's levels at hand: which troubles are roots and which merely follow. */
export function findRoots(plan: HealthPlan, levels: Levels): Standings {
  const stand = (name: ComponentName): Standing => {
    const own = levels[name];
    const imposed = impose(plan, levels, name);
    const roots = own > Level.none ? explain(plan, levels, name, classOf(own)) : imposed.roots;
    return { level: Math.max(own, imposed.level) as Level, suppressedBy: inOrder(roots) };
  };
  return Object.fromEntries(COMPONENT_NAMES.map((name) => [name, stand(name)])) as Standings;
}

/**
 * What the failures below a component make of it, and their roots. They are felt over any number of hard edges, but a
 * soft one ends them: what has to do with less still serves its dependents.
 */
function impose(
  plan: HealthPlan,
  levels: Levels,
  name: ComponentName,
): { level: Level; roots: ComponentName[] } {
  const feltOver = (edge: Edge, on: ComponentName): ComponentName[] =>
    dependenciesOf(plan, on).flatMap(([below, its]) => (its === edge ? failureOf(below) : []));
  const failureOf = (on: ComponentName): ComponentName[] =>
    classOf(levels[on]) === Class.failed
      ? rootsOr(on, explain(plan, levels, on, Class.failed))
      : feltOver('hard', on);
  const hard = feltOver('hard', name);
  const soft = feltOver('soft', name);
  const level = hard.length > 0 ? IMPOSED.hard : soft.length > 0 ? IMPOSED.soft : Level.none;
  return { level, roots: [...hard, ...soft] };
}

const dependenciesOf = (plan: HealthPlan, name: ComponentName) =>
  Object.entries(plan.components[name].dependsOn) as [ComponentName, Edge][];

const rootsOr = (name: ComponentName, roots: ComponentName[]) => (roots.length > 0 ? roots : [name]);

const inOrder = (names: ComponentName[]): ComponentName[] => {
  const found = new Set(names);
  return COMPONENT_NAMES.filter((name) => found.has(name));
};

/** What follows from a root at this moment. */
export const affectedBy = (standings: Standings, root: ComponentName): ComponentName[] =>
  COMPONENT_NAMES.filter((name) => standings[name].suppressedBy.includes(root));

/** Everything that depends on a component, directly or not. */
export function dependentsOf(plan: HealthPlan, root: ComponentName): ComponentName[] {
  const dependsOn = (name: ComponentName): boolean =>
    (Object.keys(plan.components[name].dependsOn) as ComponentName[]).some(
      (on) => on === root || dependsOn(on),
    );
  return COMPONENT_NAMES.filter(dependsOn);
}
