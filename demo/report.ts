import type { Received } from './reader.ts';

export interface Comparison {
  committed: number;
  received: number;
  missing: string[];
  twice: string[];
  outOfOrder: string[];
  rolledBack: number;
  holds: boolean;
}

/** Compares what arrived with what was committed: rows 1 to n of each key, once and in this order. */
export function compare(committed: Map<string, number>, received: Received[]): Comparison {
  const arrived = new Map<string, number[]>();
  for (const { key, number, rolledBack } of received) {
    if (!rolledBack) arrived.set(key, [...(arrived.get(key) ?? []), number]);
  }
  const found: Omit<Comparison, 'holds'> = {
    committed: [...committed.values()].reduce((sum, rows) => sum + rows, 0),
    received: received.length,
    missing: [],
    twice: [],
    outOfOrder: [],
    rolledBack: received.filter(({ rolledBack }) => rolledBack).length,
  };
  for (const [key, rows] of committed) {
    const numbers = arrived.get(key) ?? [];
    const distinct = new Set(numbers);
    for (let number = 1; number <= rows; number += 1)
      if (!distinct.has(number)) found.missing.push(`${key}#${number}`);
    numbers.forEach((number, index) => {
      if (numbers.indexOf(number) < index) found.twice.push(`${key}#${number}`);
      else if (index > 0 && number < numbers[index - 1]!) found.outOfOrder.push(`${key}#${number}`);
    });
  }
  const faults = found.missing.length + found.twice.length + found.outOfOrder.length + found.rolledBack;
  return { ...found, holds: faults === 0 && found.received === found.committed };
}

export function printReport(report: { comparison: Comparison; statuses: unknown[]; seconds: number }): void {
  const { committed, received, missing, twice, outOfOrder, rolledBack, holds } = report.comparison;
  const named = (rows: string[]) =>
    rows.length > 0 ? `${rows.length}: ${rows.slice(0, 10).join(' ')}` : '0';
  console.log(`
  rows committed to core_outboxmessage   ${committed}
  records seen by read_committed         ${received}
  missing                                ${named(missing)}
  twice                                  ${named(twice)}
  out of order for their key             ${named(outOfOrder)}
  of transactions that were rolled back  ${rolledBack}

  status of the relays, as "temporal workflow query --type status" shows it:`);
  for (const status of report.statuses) console.log(`  ${JSON.stringify(status)}`);
  console.log(`
  This stack is gone in a moment. For one that stays, with the Temporal UI: npm run dev,
  then http://localhost:8233 → outbox-relay-0: its summary, its pending activity, its history.

  ${holds ? 'HOLDS: every committed row once, in order for each key' : 'DOES NOT HOLD'} (${report.seconds.toFixed(0)} s)`);
}
