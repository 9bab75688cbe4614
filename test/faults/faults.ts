// `npm run faults [-- --seed <n>] [--rounds <n>] [--seconds <n>]`: rounds of random faults on real services. The seed
// decides which faults come when; what the processes make of them is their own. Exits with 1 at the first violation.
import { parseArgs } from 'node:util';
import { createTestStack } from '../../stack/testStack.ts';
import { stackEnvironment } from '../support/stack.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
    rounds: { type: 'string', default: '8' },
    seconds: { type: 'string', default: '120' },
  },
});
const [seed, rounds, seconds] = [values.seed, values.rounds, values.seconds].map(Number) as [
  number,
  number,
  number,
];
if (![seed, rounds, seconds].every((number) => Number.isInteger(number) && number > 0)) {
  console.error('seed, rounds and seconds are whole numbers from 1 on');
  process.exit(2);
}

const stack = await createTestStack((line) => console.error(line));
let status = 1;
try {
  await stack.start(['postgres', 'kafka', 'temporal']);
  Object.assign(process.env, stackEnvironment(stack));
  const { runRound } = await import('./round.ts');
  const sum = { rows: 0, faults: 0 };
  for (let round = 0; round < rounds; round += 1) {
    console.log(`round ${round + 1} of ${rounds}, seed ${seed + round}`);
    const { rows, faults } = await runRound(seed + round, seconds, (line) => console.log(`  ${line}`));
    sum.rows += rows;
    sum.faults += faults;
    console.log(`  ${rows} rows, ${faults} faults: none lost, none twice, in order`);
  }
  console.log(`${rounds} rounds, ${sum.faults} faults, ${sum.rows} rows: 0 lost, 0 twice, 0 out of order`);
  status = 0;
} catch (error) {
  console.error(error);
} finally {
  await stack.remove();
}
process.exit(status);
