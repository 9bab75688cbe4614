import { availableParallelism, loadavg } from 'node:os';

export interface BenchRun {
  reporter: Reporter;
  /** Less rows, one round: to see that it works, not to compare. */
  quick: boolean;
  parts: string[];
}

export interface Bench {
  about: string;
  parts: string[];
  /** Parts that take long, and only run when they are named. */
  onDemand: string[];
  run(run: BenchRun): Promise<void>;
}

/** What tells measurements of one name apart, and anything else that is worth a field in the JSON line. */
export type Fields = Record<string, string | number | boolean>;

/** Against what a row of the table is compared: the measurement and what the ratio says. */
interface Comparison {
  name: string;
  to: string;
  says: string;
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2;
}

/** Prints each measurement at once, as a JSON line on stdout, and remembers it for the table of medians. */
export class Reporter {
  private readonly bench: string;
  private readonly rounds = new Map<string, { unit: string; values: number[] }>();
  private readonly comparisons: Comparison[] = [];

  constructor(bench: string) {
    this.bench = bench;
  }

  /** The load average goes with each: on a shared machine it says how far a figure can be trusted. */
  emit(name: string, value: number, unit: string, fields: Fields = {}): void {
    const rounded = Number(value.toPrecision(4));
    const load = Number(loadavg()[0]!.toFixed(1));
    console.log(JSON.stringify({ bench: this.bench, name, value: rounded, unit, ...fields, load }));
    const known = this.rounds.get(name) ?? { unit, values: [] };
    known.values.push(value);
    this.rounds.set(name, known);
  }

  /** Asks the table for the ratio of two measurements, where both were made. */
  compare(name: string, to: string, says: string): void {
    this.comparisons.push({ name, to, says });
  }

  printTable(): void {
    const header = ['measurement', 'median', 'least', 'most', 'rounds', 'unit'];
    const rows = [...this.rounds].map(([name, { unit, values }]) => [
      name,
      shown(median(values)),
      shown(Math.min(...values)),
      shown(Math.max(...values)),
      String(values.length),
      unit,
    ]);
    printColumns([header, ...rows]);
    const ratios = this.comparisons.flatMap(({ name, to, says }) => {
      const [a, b] = [this.rounds.get(name), this.rounds.get(to)];
      return a && b ? [[`${name} / ${to}`, (median(a.values) / median(b.values)).toFixed(2), says]] : [];
    });
    if (ratios.length > 0) printColumns([['ratio of medians', '', ''], ...ratios]);
    console.log(`\n${availableParallelism()} cores, shared: the ratios of one run count, not the figures.`);
  }
}

const shown = (value: number): string =>
  Math.abs(value) >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));

function printColumns(rows: string[][]): void {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  console.log();
  for (const row of rows) {
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    );
  }
}
