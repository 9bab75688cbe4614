/** One thing that was done to the scene. */
export interface Fault {
  deed: 'kill' | 'freeze' | 'cut' | 'stall' | 'lost request' | 'lost response';
  /** The service, or the kind of message that was lost. */
  of: string;
  /** For people: how long, which worker. */
  detail?: string;
}

export const describeFault = ({ deed, of, detail }: Fault): string =>
  `${deed}: ${of}${detail ? ` (${detail})` : ''}`;

/** How often what was done. */
export class Tally {
  private readonly counts = new Map<string, number>();

  add({ deed, of }: Pick<Fault, 'deed' | 'of'>, times = 1): void {
    const name = JSON.stringify([deed, of]);
    this.counts.set(name, (this.counts.get(name) ?? 0) + times);
  }

  addAll(other: Tally): void {
    for (const [name, times] of other.counts) {
      const [deed, of] = JSON.parse(name);
      this.add({ deed, of }, times);
    }
  }

  total(deed?: Fault['deed']): number {
    return this.entries(deed).reduce((sum, [, times]) => sum + times, 0);
  }

  /** As in: `12 kill (kafka 3, worker 9), 2 freeze (postgres 2)`. */
  toString(): string {
    const deeds = new Set([...this.counts.keys()].map((name): Fault['deed'] => JSON.parse(name)[0]));
    return [...deeds]
      .sort()
      .map((deed) => {
        const each = this.entries(deed).map(([of, times]) => `${of} ${times}`);
        return `${this.total(deed)} ${deed} (${each.sort().join(', ')})`;
      })
      .join(', ');
  }

  private entries(deed?: Fault['deed']): [of: string, times: number][] {
    return [...this.counts]
      .map(([name, times]) => [...(JSON.parse(name) as [string, string]), times] as const)
      .filter(([of]) => deed === undefined || of === deed)
      .map(([, of, times]) => [of, times]);
  }
}
