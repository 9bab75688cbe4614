// `npm run bench -- <name> [--quick] [--only <part,…>]`: starts a stack of its own, measures, prints one JSON line for
// each measurement and a table at the end, and leaves nothing behind.
import { parseArgs } from 'node:util';
import { createTestStack } from '../stack/testStack.ts';
import { stackEnvironment } from '../test/support/stack.ts';
import { backups } from './backups/backups.ts';
import { outbox } from './outbox/outbox.ts';
import { type Bench, Reporter } from './report.ts';
import { storage } from './storage/storage.ts';

const benches: Record<string, Bench> = { outbox, storage, backups };

function usage(): string {
  const lines = Object.entries(benches).map(
    ([name, { about, parts, onDemand }]) =>
      `  ${name.padEnd(10)} ${about}\n${' '.repeat(13)}parts: ${parts.join(', ')}${onDemand.length > 0 ? `; if named: ${onDemand.join(', ')}` : ''}`,
  );
  return `usage: npm run bench -- <name> [--quick] [--only <part,…>]\n${lines.join('\n')}`;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } },
  });
  const name = positionals[0] ?? '';
  const bench = benches[name];
  const parts = values.only?.split(',') ?? bench?.parts ?? [];
  if (!bench || !parts.every((part) => [...bench.parts, ...bench.onDemand].includes(part))) {
    console.error(usage());
    return name === '' ? 0 : 2;
  }
  const stack = await createTestStack((line) => console.error(line));
  try {
    await stack.start(['postgres', 'kafka', 'temporal', 's3']);
    // The helpers of the tests find the stack here, and so do the processes that they start.
    Object.assign(process.env, stackEnvironment(stack));
    const reporter = new Reporter(name);
    await bench.run({ reporter, quick: values.quick, parts });
    reporter.printTable();
    return 0;
  } finally {
    await stack.remove();
  }
}

process.exit(await main());
