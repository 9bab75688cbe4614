import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { type HealthPlan, Level } from '../../src/domain/health.ts';
import { Class, classOf, dependentsOf, explain, findRoots } from '../../src/domain/healthCascade.ts';
import { COMPONENT_NAMES, type ComponentName, type Edge } from '../../src/domain/healthComponents.ts';
import { healthPlan } from '../support/healthWorld.ts';

type Levels = Record<ComponentName, Level>;

const PLAN = healthPlan();
const allFine = Object.fromEntries(COMPONENT_NAMES.map((name) => [name, Level.none])) as Levels;
const roots = (levels: Partial<Levels>) => findRoots(PLAN, { ...allFine, ...levels });

suite('on the platform', () => {
  test('a hard dependent of a failed component is moderate, a soft one minor', () => {
    const found = roots({ somabrain: Level.severe, database: Level.critical });
    assert.deepEqual(found.auth_service, { level: Level.moderate, suppressedBy: ['database'] });
    assert.deepEqual(found.tool_executor, { level: Level.moderate, suppressedBy: ['database', 'somabrain'] });
    assert.deepEqual(roots({ somabrain: Level.severe }).tool_executor, {
      level: Level.minor,
      suppressedBy: ['somabrain'],
    });
  });

  test('what a dependency is made of counts as well: multimodal ← upload_service ← database', () => {
    for (const its of [Level.none, Level.moderate, Level.severe] as const) {
      const found = roots({ database: Level.severe, upload_service: its });
      assert.deepEqual(found.multimodal, { level: Level.moderate, suppressedBy: ['database'] });
      assert.deepEqual(found.upload_service.suppressedBy, ['database']);
    }
  });

  test('two that fail at once are two roots', () => {
    const found = roots({ kafka: Level.severe, redis: Level.severe, gateway: Level.severe });
    assert.deepEqual(found.kafka, { level: Level.severe, suppressedBy: [] });
    assert.deepEqual(found.redis, { level: Level.severe, suppressedBy: [] });
    assert.deepEqual(found.gateway, { level: Level.severe, suppressedBy: ['kafka', 'redis'] });
  });

  test('an outage is not explained by slowness, nor by what it can do without; slowness is by either', () => {
    assert.deepEqual(roots({ database: Level.moderate, gateway: Level.severe }).gateway.suppressedBy, []);
    assert.deepEqual(
      roots({ somabrain: Level.severe, tool_executor: Level.severe }).tool_executor.suppressedBy,
      [],
    );
    assert.deepEqual(roots({ database: Level.minor, gateway: Level.moderate }).gateway.suppressedBy, [
      'database',
    ]);
    assert.deepEqual(
      roots({ somabrain: Level.severe, tool_executor: Level.minor }).tool_executor.suppressedBy,
      ['somabrain'],
    );
  });

  test('what is degraded imposes nothing', () => {
    assert.deepEqual(roots({ database: Level.moderate }).gateway, { level: Level.none, suppressedBy: [] });
  });

  test('everything that depends on the database is listed', () => {
    assert.deepEqual(dependentsOf(PLAN, 'audio_tts'), ['voice_service', 'multimodal']);
    assert.equal(dependentsOf(PLAN, 'database').length, 8);
    assert.deepEqual(dependentsOf(PLAN, 'multimodal'), []);
  });
});

/** Any graph without circles: in an order by chance, a component depends on earlier ones only. */
const plans: fc.Arbitrary<HealthPlan> = fc
  .tuple(
    fc.shuffledSubarray([...COMPONENT_NAMES], { minLength: COMPONENT_NAMES.length }),
    fc.array(fc.tuple(fc.nat(17), fc.nat(17), fc.constantFrom<Edge>('hard', 'soft')), { maxLength: 40 }),
  )
  .map(([order, edges]) => {
    const components = { ...PLAN.components };
    for (const name of order) components[name] = { ...components[name], dependsOn: {} };
    for (const [one, other, edge] of edges)
      if (one !== other)
        components[order[Math.max(one, other)]!].dependsOn[order[Math.min(one, other)]!] = edge;
    return { ...PLAN, components };
  });

const levels = fc
  .array(fc.constantFrom(...Object.values(Level)), { minLength: 18, maxLength: 18 })
  .chain((some) =>
    fc.constantFrom(
      some,
      some.map((level, index) => (index % 3 ? Level.none : level)),
    ),
  )
  .map((some) => Object.fromEntries(COMPONENT_NAMES.map((name, index) => [name, some[index]])) as Levels);

/** All ways down from a component, each a list of edges. */
function paths(plan: HealthPlan, name: ComponentName): [on: ComponentName, edge: Edge][][] {
  const edges = Object.entries(plan.components[name].dependsOn) as [ComponentName, Edge][];
  return edges.flatMap((edge) => [[edge], ...paths(plan, edge[0]).map((rest) => [edge, ...rest])]);
}

/**
 * By the definition: a trouble climbs a way up from R to X if it never has to become worse on it: what is told of each
 * on the way is at most as bad as what comes from below, and an outage climbs hard edges only.
 */
function explainedBy(plan: HealthPlan, its: Levels, name: ComponentName, trouble: Class): Set<ComponentName> {
  const found = new Set<ComponentName>();
  for (const path of paths(plan, name)) {
    let need = trouble;
    const isWay = path.every(([on, edge]) => {
      const carries = need !== Class.failed || edge === 'hard';
      if (classOf(its[on]) >= need) need = classOf(its[on]);
      return carries;
    });
    const root = path.at(-1)![0];
    if (isWay && classOf(its[root]) >= need && need !== Class.fine) found.add(root);
  }
  return found;
}

suite('on any graph', () => {
  const always = (check: (plan: HealthPlan, its: Levels) => void) =>
    fc.assert(fc.property(plans, levels, check), { numRuns: 1_000 });

  test('what explains a trouble is what the definition says, and nothing below it explains that', () => {
    always((plan, its) => {
      for (const name of COMPONENT_NAMES) {
        const trouble = classOf(its[name]);
        if (trouble === Class.fine) continue;
        const all = explainedBy(plan, its, name, trouble);
        const last = [...all].filter((root) => explainedBy(plan, its, root, classOf(its[root])).size === 0);
        assert.deepEqual(new Set(explain(plan, its, name, trouble)), new Set(last));
      }
    });
  });

  test('whatever is not fine is a root, or has roots that nothing explains; nothing explains itself', () => {
    always((plan, its) => {
      const standings = findRoots(plan, its);
      for (const name of COMPONENT_NAMES) {
        const { level, suppressedBy } = standings[name];
        assert.ok(level >= its[name]);
        assert.ok(!suppressedBy.includes(name));
        if (level > its[name] || level === Level.none)
          assert.equal(suppressedBy.length > 0, level > Level.none);
        for (const root of suppressedBy) {
          assert.deepEqual(standings[root].suppressedBy, []);
          assert.ok(its[root] > Level.none);
          assert.ok(dependentsOf(plan, root).includes(name));
        }
      }
    });
  });

  test('a failure is felt over hard edges; over a soft one it is minor, and no further', () => {
    always((plan, its) => {
      const standings = findRoots(plan, its);
      for (const name of COMPONENT_NAMES) {
        const imposed = paths(plan, name)
          .filter((path) => classOf(its[path.at(-1)![0]]) === Class.failed)
          .filter((path) => path.slice(1).every(([, edge]) => edge === 'hard'))
          .map(([first]) => (first![1] === 'soft' ? Level.minor : Level.moderate));
        assert.equal(standings[name].level, Math.max(its[name], ...imposed));
      }
    });
  });
});
