// `npm run check`: everything that can be known without a service. Types, lint and format, the workflow bundle.
import { spawnSync } from 'node:child_process';
import { workflowBundle } from '../src/workflowBundle.ts';

const steps: [name: string, command: string, ...args: string[]][] = [
  ['types', 'tsc', '--project', 'tsconfig.json'],
  ['lint and format', 'biome', 'check', '--error-on-warnings', '.'],
];

for (const [name, command, ...args] of steps) {
  console.error(`check: ${name}`);
  const { status } = spawnSync(`node_modules/.bin/${command}`, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

// Types cannot tell what the workflow sandbox forbids; the bundler can.
console.error('check: workflow bundle');
await workflowBundle();
