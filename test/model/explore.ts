import { encode, encodeWorld } from './encode.ts';
import { type Fault, faultInTheEnd, faultOf } from './faults.ts';
import { eachStep, initialState, type Scenario, type State } from './states.ts';

export interface Exploration {
  /** How many different states were reached, how many steps lead to them, and how many worlds are among them. */
  states: number;
  steps: number;
  worlds: ReadonlySet<string>;
  /** Each kind of fault that was found, with the shortest way to it. */
  faults: Map<Fault, string[]>;
}

/**
 * Tries every interleaving, breadth first, so that the first way found to a fault is a shortest one. Goes on from every
 * state that is sound, until there are no new ones or until what is wanted is found: each of these faults, or any.
 */
export function explore(scenario: Scenario, wanted: readonly Fault[] | 'any' | 'all' = 'all'): Exploration {
  const search = new Search(scenario);
  const isOver = (): boolean => {
    if (wanted === 'all') return false;
    return wanted === 'any' ? search.faults.size > 0 : wanted.every((fault) => search.faults.has(fault));
  };
  for (let level = search.begin(); level.length > 0 && !isOver(); ) {
    const nextLevel: Found[] = [];
    for (const found of level) {
      if (isOver()) break;
      search.expand(found, nextLevel);
    }
    level = nextLevel;
  }
  return search;
}

interface Found {
  state: State;
  id: number;
}

class Search implements Exploration {
  steps = 0;
  readonly faults = new Map<Fault, string[]>();
  private readonly scenario: Scenario;
  private readonly seen = new Set<string>();
  /** How each state was found: from which, and by which of its steps. */
  private readonly parents: number[] = [];
  private readonly choices: number[] = [];
  /** What a fresh relay makes of a world depends on nothing else. */
  private readonly endings = new Map<string, Fault | undefined>();

  constructor(scenario: Scenario) {
    this.scenario = scenario;
  }

  get states(): number {
    return this.seen.size;
  }

  get worlds(): ReadonlySet<string> {
    return new Set(this.endings.keys());
  }

  begin(): Found[] {
    const found: Found[] = [];
    this.add(initialState(this.scenario), -1, -1, found);
    return found;
  }

  expand({ state, id }: Found, found: Found[]): void {
    let choice = 0;
    eachStep(state, this.scenario, (_, next) => {
      this.steps += 1;
      this.add(next, id, choice, found);
      choice += 1;
    });
  }

  private add(state: State, parent: number, choice: number, found: Found[]): void {
    const code = encode(state);
    if (this.seen.has(code)) return;
    this.seen.add(code);
    this.parents.push(parent);
    this.choices.push(choice);
    const id = this.parents.length - 1;
    const fault = faultOf(state, this.scenario.protocol.keys);
    const later = fault ? undefined : this.ending(state);
    if (fault) this.report(fault, id, []);
    else if (later) this.report(later, id, [`from here a fresh relay runs alone, undisturbed: ${later}`]);
    else found.push({ state, id });
  }

  private ending({ world }: State): Fault | undefined {
    const code = encodeWorld(world);
    if (!this.endings.has(code)) this.endings.set(code, faultInTheEnd(world, this.scenario));
    return this.endings.get(code);
  }

  private report(fault: Fault, id: number, end: string[]): void {
    if (!this.faults.has(fault)) this.faults.set(fault, [...this.retrace(id), ...end]);
  }

  /** The steps that lead to a state, by taking them again. */
  private retrace(id: number): string[] {
    const choices: number[] = [];
    for (let at = id; this.parents[at]! >= 0; at = this.parents[at]!) choices.unshift(this.choices[at]!);
    let state = initialState(this.scenario);
    return choices.map((choice) => {
      const steps: [what: string, next: State][] = [];
      eachStep(state, this.scenario, (what, next) => steps.push([what, next]));
      const [what, next] = steps[choice]!;
      state = next;
      return what;
    });
  }
}
