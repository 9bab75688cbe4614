// Runs one of the project's TypeScript programs on a bare clone: `node scripts/run.mjs <file.ts> [arguments]`.
//
// It may be started by any Node from 18 on, because a machine's own Node is often older than the one this project
// runs on. So it is plain JavaScript without dependencies: install what package-lock.json names (once, and again
// whenever that file has changed), then hand over to the Node that the `node` package pins.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const pinnedNode = path.join(root, 'node_modules', '.bin', 'node');
// Written last: an install that was interrupted leaves no stamp and is done again.
const stamp = path.join(root, 'node_modules', '.installed-from');

const lockHash = createHash('sha256')
  .update(readFileSync(path.join(root, 'package-lock.json')))
  .digest('hex');

if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lockHash) {
  console.error('installing the packages of package-lock.json (once, about half a minute) …');
  const install = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  if (install.status !== 0) process.exit(install.status ?? 1);
  writeFileSync(stamp, lockHash);
}

// kafkajs 2.2.4 computes a negative timeout when its queue is empty, which Node 24 remarks upon (tulios/kafkajs#1751).
const options = ['--disable-warning=TimeoutNegativeWarning'];

// Batches come and go as buffers of a megabyte. Without these glibc keeps what is freed, 80 MB in a worker.
const memory = { MALLOC_ARENA_MAX: '1', MALLOC_TRIM_THRESHOLD_: '131072' };
// For files and name look-ups. A mount that hangs holds one for each upload that was begun on it.
const threads = { UV_THREADPOOL_SIZE: '16' };

const program = spawn(pinnedNode, [...options, ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...memory,
    ...threads,
    ...process.env,
    PATH: `${path.dirname(pinnedNode)}${path.delimiter}${process.env.PATH}`,
  },
});
// A terminal sends Ctrl-C to the program as well; a second one would be an order to stop at once.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => program.kill('SIGTERM'));
program.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)));
