// `npm run faults [-- --seed <n>] [--rounds <n>] [--seconds <n>]`: rounds of random faults on real services. The seed
// decides which faults come in which order; what the processes make of them is their own. Exits with 1 if a round saw
// a violation, and names its seed.
import { parseArgs } from 'node:util';
import { createTestStack } from '../../stack/testStack.ts';
import { stackEnvironment } from '../support/stack.ts';
import { Tally } from './tally.ts';
import { describeVerdict, isClean } from './verdict.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
    rounds: { type: 'string', default: '8' },
    seconds: { type: 'string', default: '120' },
  },
});
const [firstSeed, rounds, seconds] = [values.seed, values.rounds, values.seconds].map(Number) as [
  number,
  number,
  number,
];
if (![firstSeed, rounds, seconds].every((number) => Number.isInteger(number) && number > 0)) {
  console.error('seed, rounds and seconds are whole numbers from 1 on');
  process.exit(2);
}

const sum = { rows: 0, underFaults: 0, takeovers: 0, lost: 0, duplicates: 0, inversions: 0, strangers: 0 };
const faults = new Tally();
const violated: number[] = [];

/** One round, told and added up. */
async function play(seed: number): Promise<void> {
  const { runRound } = await import('./round.ts');
  try {
    const { verdict, ...round } = await runRound(seed, seconds, (line) => console.log(`  ${line}`));
    faults.addAll(round.faults);
    for (const name of ['rows', 'lost', 'duplicates', 'inversions', 'strangers'] as const)
      sum[name] += verdict[name];
    sum.underFaults += round.underFaults;
    sum.takeovers += round.takeovers;
    console.log(`  ${describeVerdict(verdict)}`);
    if (!isClean(verdict)) violated.push(seed);
  } catch (error) {
    violated.push(seed);
    console.error(error);
  }
}

const stack = await createTestStack((line) => console.error(line));
try {
  await stack.start(['postgres', 'kafka', 'temporal']);
  Object.assign(process.env, stackEnvironment(stack));
  for (let seed = firstSeed; seed < firstSeed + rounds; seed += 1) {
    console.log(`round ${seed - firstSeed + 1} of ${rounds}, seed ${seed}`);
    await play(seed);
  }
  console.log(`\n${rounds} rounds, ${faults.total()} faults: ${faults}`);
  console.log(
    `${sum.takeovers} takeovers; ${sum.underFaults} of ${sum.rows} rows were delivered under faults`,
  );
  console.log(
    `total: ${faults.total('kill')} kills, ${sum.rows} rows, ${sum.lost} lost, ${sum.duplicates} duplicates, ` +
      `${sum.inversions} inversions, ${sum.strangers} strangers`,
  );
  if (violated.length > 0) console.log(`VIOLATIONS in rounds with seed ${violated.join(', ')}`);
} finally {
  await stack.remove();
}
process.exit(violated.length > 0 ? 1 : 0);
