// The promise of health checking, on the real graph and with random incidents: one notice for each root's outage and
// one for its end, nothing about what merely follows, nothing lost.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { type HealthNotice, type HealthRules, Level, levelName } from '../../src/domain/health.ts';
import { Class, classOf } from '../../src/domain/healthCascade.ts';
import { COMPONENT_NAMES, type ComponentName } from '../../src/domain/healthComponents.ts';
import { isUnsettled } from '../../src/domain/healthLevels.ts';
import { ownLevel } from '../../src/domain/healthState.ts';
import {
  hardDependencies,
  healthPlan,
  type Incident,
  type Script,
  type Span,
  type Step,
  watch,
} from '../support/healthWorld.ts';

/** Scripts for each property. */
const RUNS = Number(process.env.HEALTH_RUNS ?? 1000);

const component = fc.constantFrom(...COMPONENT_NAMES);

/** Blips that end before they are confirmed, and outages that do not. In less than 5 s a root may not see its own. */
const span = (latest: number): fc.Arbitrary<Span> =>
  fc
    .record({
      from: fc.integer({ min: 60, max: latest }),
      seconds: fc.oneof(fc.integer({ min: 5, max: 25 }), fc.integer({ min: 40, max: 400 })),
    })
    .map(({ from, seconds }) => ({ from, to: from + seconds }));

const incident = (latest: number, ...kinds: Incident['kind'][]): fc.Arbitrary<Incident> =>
  fc.tuple(component, fc.constantFrom(...kinds), span(latest)).map(([name, kind, its]) => ({
    component: name,
    kind,
    ...its,
  }));

const rules = (min: number) =>
  fc.record({ down: fc.integer({ min, max: 4 }), up: fc.integer({ min: 1, max: 4 }) });
const seed = fc.nat(0x7fffffff);

const noticesOf = (steps: Step[], name?: ComponentName): { at: number; notice: HealthNotice }[] =>
  steps.flatMap(({ at, record }) =>
    record.notices
      .filter((notice) => name === undefined || notice.component === name)
      .map((notice) => ({ at, notice })),
  );

const story = (steps: Step[]): string =>
  noticesOf(steps)
    .map(({ at, notice }) => `${at} s ${notice.payload.message}`)
    .join('\n');

/** Seconds within which an outage is told, and its end: a cycle, what confirms it, and what a root excuses. */
const SOON = 180;

suite('a few outages, overlapping, each of another component', () => {
  const outages = fc.uniqueArray(incident(500, 'broken', 'hung'), {
    minLength: 1,
    maxLength: 4,
    selector: (it) => it.component,
  });
  const check = (incidents: Incident[], its: Partial<HealthRules>, order: number, late: boolean) => {
    const seconds = Math.max(...incidents.map(({ to }) => to)) + 250;
    const plans = [{ from: 0, plan: healthPlan(its) }];
    const steps = watch({ incidents, seconds, late, plans, seed: order });
    for (const name of COMPONENT_NAMES) checkOutages(incidents, steps, name);
    checkAlways(steps);
  };

  // With down = 2, a dependent that notices a blip's beginning sooner and its end later has failed twice already.
  test('each is told once if nothing explains it, and so is its end; what follows from it is not told', () => {
    fc.assert(fc.property(outages, rules(3), seed, fc.boolean(), check), { numRuns: RUNS });
  });
});

function checkOutages(incidents: Incident[], steps: Step[], name: ComponentName): void {
  const own = incidents.filter((it) => it.component === name);
  const below = incidents.filter((it) => hardDependencies(name).includes(it.component));
  const context = () => `${name}\n${story(steps)}`;
  const told = noticesOf(steps, name);
  checkOrder(told, context);
  if (own.length === 0) assert.equal(told.length, 0, context());
  for (const { at } of told.filter(({ notice }) => notice.severity === 'critical')) {
    const isRight = own.some(({ from, to }) => from <= at && at < to + 40);
    assert.ok(isRight, `${context()}\nat ${at} s it is told, but has not failed by itself`);
  }
  for (const { at, components } of steps) {
    const was = classOf(components[name].told.level);
    const isAlone =
      own.some(({ from, to }) => from <= at - SOON && at < to) && !touches(below, at - SOON, at);
    if (isAlone) assert.equal(was, Class.failed, `${context()}\nat ${at} s it was not told yet`);
    // Failures that were too few for an outage may have been told as an error rate, and that is over later.
    const isOver = !touches([...own, ...below], at - SOON, at);
    if (isOver) assert.notEqual(was, Class.failed, `${context()}\nat ${at} s its end was not told yet`);
  }
}

/** What a component's notices say one after the other: it gets worse, perhaps better in part, and then it is over. */
function checkOrder(told: { notice: HealthNotice }[], context: () => string): void {
  let was: Class = Class.fine;
  for (const { notice } of told) {
    const is = classOf(Level[notice.payload.new_status]);
    if (notice.payload.event === 'failure') assert.ok(is > was, context());
    else if (notice.payload.event === 'eased') assert.ok(is === Class.degraded && was > is, context());
    else assert.ok(notice.payload.event === 'recovery' && is === Class.fine && was > is, context());
    was = is;
  }
}

const touches = (spans: Span[], since: number, until: number): boolean =>
  spans.some(({ from, to }) => from < until && since < to);

/** What holds whatever happens. */
function checkAlways(steps: Step[]): void {
  const keys = noticesOf(steps).map(({ notice }) => notice.idempotencyKey);
  assert.equal(new Set(keys).size, keys.length, 'keys are unique');
  const standing = Object.fromEntries(COMPONENT_NAMES.map((name) => [name, 'none']));
  const gates: Record<string, string | null> = {};
  for (const { record, components } of steps) {
    for (const { component, from, to } of record.transitions) {
      assert.equal(standing[component], from, 'transitions join');
      standing[component] = to;
    }
    for (const { component, openUntil } of record.gates) gates[component] = openUntil;
    for (const name of COMPONENT_NAMES) {
      const { standing: its, breaker } = components[name];
      assert.equal(standing[name], levelName(its.level), `the transitions of ${name} add up`);
      const until = breaker.state === 'open' ? new Date(breaker.until).toISOString() : null;
      assert.equal(gates[name] ?? null, until, `the gate of ${name} is its breaker's`);
    }
  }
}
suite('anything, any number of times', () => {
  const kinds = ['broken', 'hung', 'slow', 'weak', 'blind'] as const;
  const few = fc.uniqueArray(component, { minLength: 1, maxLength: 4 });
  const incidents = few.chain((names) =>
    fc.array(
      fc
        .tuple(fc.constantFrom(...names), fc.constantFrom(...kinds), span(1200))
        .map(([name, kind, its]) => ({ component: name, kind, ...its })),
      { minLength: 1, maxLength: 14 },
    ),
  );
  const maintenance = fc.array(
    fc.tuple(component, span(1200)).map(([name, its]) => ({ component: name, ...its })),
    { maxLength: 2 },
  );
  const monitoring = fc.uniqueArray(
    fc.tuple(component, fc.constantFrom('derived' as const, 'unmonitored' as const)),
    { maxLength: 5, selector: ([name]) => name },
  );
  /** One plan, and in half of the scripts another from some time on. */
  const plans = fc
    .tuple(
      rules(3),
      monitoring,
      fc.option(fc.tuple(fc.integer({ min: 60, max: 1200 }), rules(3), monitoring)),
    )
    .map(([its, parts, next]) => [
      { from: 0, plan: healthPlan(its, Object.fromEntries(parts)) },
      ...(next ? [{ from: next[0], plan: healthPlan(next[1], Object.fromEntries(next[2])) }] : []),
    ]);

  const script = (its: fc.Arbitrary<Script['plans']>): fc.Arbitrary<Script> =>
    fc
      .record({ incidents, maintenance, seed, late: fc.boolean(), plans: its })
      .map((some) => ({ ...some, seconds: lastOf(some) + CALM }));

  test('nothing is lost, nothing is told twice, the innocent are not named, and in the end all is well', () => {
    const one = rules(3).map((its) => [{ from: 0, plan: healthPlan(its) }]);
    fc.assert(
      fc.property(script(one), (its) => checkAnything(its, watch(its))),
      { numRuns: RUNS },
    );
  });

  test('also with components that have no probe, and plans that change', () => {
    fc.assert(
      fc.property(script(plans), (its) => checkAnything(its, watch(its))),
      { numRuns: RUNS },
    );
  });
});

const lastOf = ({ incidents, maintenance, plans }: Pick<Script, 'incidents' | 'maintenance' | 'plans'>) =>
  Math.max(...[...incidents, ...(maintenance ?? [])].map(({ to }) => to), ...plans.map(({ from }) => from));

/** Seconds after which nothing is left of the past: 20 cycles for flapping and error rates, and suppression. */
const CALM = 1000;

function checkAnything(script: Script, steps: Step[]): void {
  const context = () => story(steps);
  checkAlways(steps);
  const isProbed = (name: ComponentName) =>
    script.plans.every(({ plan }) => plan.components[name].monitoring === 'probed');
  for (const name of COMPONENT_NAMES) {
    const told = noticesOf(steps, name);
    checkFlapping(told, context);
    checkSuppression(told, script.plans[0]!.plan.rules, context);
    // What cannot be seen explains nothing.
    const isBlamed = ({ component: its, kind }: Incident) =>
      its === name || ((kind === 'blind' || !isProbed(its)) && hardDependencies(name).includes(its));
    if (!script.incidents.some(isBlamed))
      assert.deepEqual(
        told.map(({ notice }) => notice.payload.message),
        [],
        context(),
      );
    const last = steps.at(-1)!.components[name];
    assert.deepEqual([last.standing.level, last.told.level, last.told.flapping], [0, 0, false], context());
  }
  const spans = [...script.incidents, ...(script.maintenance ?? [])];
  const edges = [...spans.flatMap(({ from, to }) => [from, to]), ...script.plans.map(({ from }) => from)];
  for (const step of steps.filter(({ at }) => edges.every((edge) => edge < at - SOON || at < edge)))
    for (const name of COMPONENT_NAMES) checkTold(step, name, context);
}

/** At rest, people know how it is. */
function checkTold({ at, plan, components }: Step, name: ComponentName, context: () => string): void {
  const state = components[name];
  const { told, flapping, maintenanceUntil, standing, evidence, alone } = state;
  if (flapping.flapping || maintenanceUntil !== null || standing.suppressedBy.length > 0) return;
  if (isUnsettled(evidence) || isUnsettled(alone) || state.last?.outcome === 'unknown') return;
  // What explained it has just ended, also by itself: of an error rate the last failure has left the window.
  if (at * 1000 < state.excusedUntil) return;
  const is = classOf(ownLevel(state));
  const was = classOf(told.level);
  const isSuppressed = told.at !== null && at * 1000 - told.at < plan.rules.suppressionSeconds * 1000;
  const isKnown = is === Class.degraded ? was !== Class.fine || isSuppressed : was === is;
  assert.ok(isKnown && !told.flapping, `${context()}\nat ${at} s people do not know how ${name} is`);
}

function checkFlapping(told: { notice: HealthNotice }[], context: () => string): void {
  let isHeld = false;
  for (const { notice } of told) {
    const { event } = notice.payload;
    assert.equal(event === 'flapping_ended', isHeld, context());
    isHeld = event === 'flapping_started';
  }
}

function checkSuppression(
  told: { at: number; notice: HealthNotice }[],
  { suppressionSeconds }: HealthRules,
  context: () => string,
): void {
  told.forEach(({ at, notice }, index) => {
    const { event } = notice.payload;
    const isWarning = event === 'eased' || (event === 'failure' && notice.severity === 'warning');
    if (isWarning && index > 0) assert.ok(at - told[index - 1]!.at >= suppressionSeconds, context());
  });
}
