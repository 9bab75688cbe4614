// A process that calls processOnce, for tests that race, freeze and kill it. What it is to do stands in ONCE_CALLER. It
// begins when it reads a line, its work ends with the next one, and it says what happens in lines of JSON.
import { createInterface } from 'node:readline';
import { openPool } from '../../src/database/postgres.ts';
import { processOnce } from '../../src/database/processOnce.ts';

const { url, callers, ...once } = JSON.parse(process.env.ONCE_CALLER!);
const say = (line: unknown) => process.stdout.write(`${JSON.stringify(line)}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const pool = openPool(url);

async function work(signal: AbortSignal) {
  signal.addEventListener('abort', () => say({ aborted: signal.reason.code }));
  say('running');
  await lines.next();
  return { by: process.pid };
}

async function call() {
  try {
    say({ result: await processOnce(pool, once, work) });
  } catch (error) {
    say({ error: (error as { code?: string }).code ?? String(error) });
  }
}

await pool.query('SELECT');
say('ready');
await lines.next();
await Promise.all(Array.from({ length: callers }, call));
process.exit();
