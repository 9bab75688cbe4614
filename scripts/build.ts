// `npm run build`: what an image or a package carries. JavaScript and types in dist/, and the workflow bundle.
import { spawnSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import path from 'node:path';
import { bundleWorkflows } from '../src/workflowBundle.ts';

rmSync('dist', { recursive: true, force: true });
const { status } = spawnSync('node_modules/.bin/tsc', ['--project', 'tsconfig.build.json'], {
  stdio: 'inherit',
});
if (status !== 0) process.exit(status ?? 1);
cpSync('src/database/migrations', 'dist/database/migrations', { recursive: true });
await bundleWorkflows(path.resolve('dist/workflows.bundle.js'));
