// `npm test [-- <files>]`: the checks, then every test on one embedded stack of its own. Files run one after another,
// because some of them take a service away that the others need.
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { createTestStack } from '../stack/testStack.ts';
import { stackEnvironment } from './support/stack.ts';

// A kafkajs consumer that lived through a broker's crash keeps a connection after its disconnect; nothing of ours does.
const FORCE_EXIT = '--test-force-exit';

const chosen = process.argv.slice(2);
const files = chosen.length > 0 ? chosen : globSync('test/**/*.test.ts').sort();

if (chosen.length === 0) {
  const check = spawnSync(process.execPath, ['scripts/check.ts'], { stdio: 'inherit' });
  if (check.status !== 0) process.exit(check.status ?? 1);
}

const stack = await createTestStack((line) => console.error(line));
let status: number | null = 1;
try {
  await stack.start();
  const options = [
    '--test',
    '--test-concurrency=1',
    '--test-timeout=300000',
    '--test-reporter=spec',
    FORCE_EXIT,
  ];
  ({ status } = spawnSync(process.execPath, [...process.execArgv, ...options, ...files], {
    stdio: 'inherit',
    env: { ...process.env, ...stackEnvironment(stack) },
  }));
} finally {
  await stack.remove();
}
process.exit(status ?? 1);
