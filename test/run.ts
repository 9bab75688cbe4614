// `npm test [-- <files>]`: the checks, then every test on one embedded stack of its own. Two files run at a time, each with
// databases, topics and namespaces of its own; then, one after another, those that take something away which the
// others need.
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { createTestStack } from '../stack/testStack.ts';
import { stackEnvironment } from './support/stack.ts';

// A kafkajs consumer that lived through a broker's crash keeps a connection after its disconnect; nothing of ours does.
const FORCE_EXIT = '--test-force-exit';

// `--test-timeout` does not end a file whose process cannot exit, e.g. while a thread of its pool stands in a system call.
const STAGE_LIMIT_MS = 30 * 60_000;

const chosen = process.argv.slice(2);
const files = chosen.length > 0 ? chosen : globSync('test/**/*.test.ts').sort();

if (chosen.length === 0) {
  const check = spawnSync(process.execPath, ['scripts/check.ts'], { stdio: 'inherit' });
  if (check.status !== 0) process.exit(check.status ?? 1);
}

const ALONE = /^test\/(outages|faults)\//;
const stages = [
  { concurrency: 2, members: files.filter((file) => !ALONE.test(file)) },
  { concurrency: 1, members: files.filter((file) => ALONE.test(file)) },
];

const stack = await createTestStack((line) => console.error(line));
let failed = false;
try {
  await stack.start();
  for (const { concurrency, members } of stages) {
    if (members.length === 0) continue;
    const options = [
      '--import=./test/support/seed.ts',
      '--test',
      `--test-concurrency=${concurrency}`,
      '--test-timeout=300000',
      '--test-reporter=spec',
      FORCE_EXIT,
    ];
    const { status, error } = spawnSync(process.execPath, [...process.execArgv, ...options, ...members], {
      stdio: 'inherit',
      timeout: STAGE_LIMIT_MS,
      env: { ...process.env, ...stackEnvironment(stack) },
    });
    if (error) console.error(`the tests were ended: ${error.message}`);
    failed ||= status !== 0;
  }
} finally {
  await stack.remove();
}
process.exit(failed ? 1 : 0);
