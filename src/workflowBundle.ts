// The code of all workflows as one script for the sandbox. As a program, `workflowBundle.ts <file>` makes that file.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';

const root = path.dirname(import.meta.dirname);

/**
 * The bundle for a worker. In an image it was built with it. In a checkout it is made when the sources have changed, by
 * a process of its own: the bundler would leave 100 MB in the worker's memory.
 */
export async function workflowBundle(): Promise<{ codePath: string }> {
  const built = path.join(import.meta.dirname, 'workflows.bundle.js');
  if (existsSync(built)) return { codePath: built };
  const kept = path.join(root, 'node_modules', '.cache', 'workflows', `${hashOfSources()}.js`);
  if (!existsSync(kept)) await promisify(execFile)(process.execPath, [import.meta.filename, kept]);
  return { codePath: kept };
}

/** Fails on imports that a workflow must not have. */
export async function bundleWorkflows(file: string): Promise<void> {
  const workflowsPath = path.join(root, 'src', 'workflows', 'index.ts');
  const { code } = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') });
  mkdirSync(path.dirname(file), { recursive: true });
  // Complete, or not there: two workers may start at once.
  const draft = `${file}.${process.pid}`;
  writeFileSync(draft, code);
  renameSync(draft, file);
}

/** Workflows import nothing but these; and what the SDK makes of them depends on the lockfile. */
function hashOfSources(): string {
  const hash = createHash('sha256');
  const files = globSync(['src/workflows/**/*.ts', 'src/domain/**/*.ts', 'package-lock.json'], { cwd: root });
  for (const file of files.sort()) hash.update(file).update(readFileSync(path.join(root, file)));
  return hash.digest('hex');
}

if (import.meta.main) await bundleWorkflows(process.argv[2]!);
