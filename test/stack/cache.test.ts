// What is fetched or built: once, whole or not at all, and a clear word when something needed is missing.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { promisify } from 'node:util';
import { cached } from '../../stack/cache.ts';
import { withLock } from '../../stack/lock.ts';
import { kafka } from '../../stack/services/kafka.ts';
import { redis } from '../../stack/services/redis.ts';
import { s3 } from '../../stack/services/s3.ts';
import { temporal } from '../../stack/services/temporal.ts';

const runFile = promisify(execFile);
const root = mkdtempSync(path.join(tmpdir(), 'stack-cache-'));
const kept = { ...process.env };
let cacheHome = '';

beforeEach(() => {
  cacheHome = mkdtempSync(path.join(root, 'cache-'));
  process.env = { ...kept, XDG_CACHE_HOME: cacheHome };
  for (const name of ['JAVA_HOME', 'SA01_TEMPORAL_CLI', 'SA01_REDIS_SERVER', 'SA01_VERSITYGW'])
    delete process.env[name];
});
after(async () => {
  process.env = kept;
  await rm(root, { recursive: true, force: true });
});

const entries = () => readdirSync(path.join(cacheHome, 'somaagent-orchestrator'));

/** A process that wants `thing-1` built; each build adds a line to the file `builds` and takes its time. */
function builder(killBuild = false) {
  const module = new URL('../../stack/cache.ts', import.meta.url).href;
  const script = `
    import { appendFileSync, writeFileSync } from 'node:fs';
    import { setTimeout as sleep } from 'node:timers/promises';
    const { cached } = await import(${JSON.stringify(module)});
    const directory = await cached('thing-1', async (directory) => {
      appendFileSync(${JSON.stringify(path.join(cacheHome, 'builds'))}, 'built\\n');
      writeFileSync(directory + '/half', '');
      if (${killBuild}) process.kill(process.pid, 'SIGKILL');
      await sleep(500);
      writeFileSync(directory + '/whole', '');
    });
    console.log(directory);`;
  return runFile(process.execPath, ['--input-type=module', '-e', script], { env: process.env });
}

test('two processes at once build once, and both find it whole', async () => {
  const [one, two] = await Promise.all([builder(), builder()]);
  assert.equal(readFileSync(path.join(cacheHome, 'builds'), 'utf8'), 'built\n');
  assert.equal(one.stdout, two.stdout);
  assert.ok(existsSync(path.join(one.stdout.trim(), 'whole')));
});

test('two callers in one process build once', async () => {
  const builds = path.join(cacheHome, 'builds');
  const build = async () => appendFileSync(builds, 'built\n');
  await Promise.all([cached('thing-2', build), cached('thing-2', build)]);
  assert.equal(readFileSync(builds, 'utf8'), 'built\n');
});

test('a build that fails leaves nothing, and the next one is made', async () => {
  const broken = async (directory: string) => {
    writeFileSync(path.join(directory, 'half'), '');
    throw new Error('connection lost');
  };
  await assert.rejects(cached('thing-3', broken), /connection lost/);
  assert.deepEqual(entries(), ['thing-3.lock']);
  const directory = await cached('thing-3', async (made) => writeFileSync(path.join(made, 'whole'), ''));
  assert.deepEqual(readdirSync(directory), ['whole']);
});

test('a build that is killed blocks nobody, and what it left is removed', async () => {
  await assert.rejects(builder(true), { signal: 'SIGKILL' });
  assert.ok(entries().some((name) => name.startsWith('thing-1.partial-')));
  await builder();
  assert.deepEqual(entries().sort(), ['thing-1', 'thing-1.lock']);
});

test('a lock is handed on when its work fails', async () => {
  const file = path.join(cacheHome, 'a.lock');
  await assert.rejects(
    withLock(file, () => Promise.reject(new Error('no'))),
    /no/,
  );
  assert.equal(await withLock(file, async () => 'mine'), 'mine');
});

test('a missing prerequisite is named in one sentence that says what to do', async () => {
  process.env.PATH = '';
  const oneSentence = (pattern: RegExp) => (error: Error) => {
    assert.equal(error.name, 'StackError');
    assert.match(error.message, pattern);
    assert.match(error.message, /^[^\n]+\.$/);
    return true;
  };
  await assert.rejects(
    temporal.obtain(),
    oneSentence(/install Go, or put temporal on the PATH.*SA01_TEMPORAL_CLI/),
  );
  await assert.rejects(s3.obtain(), oneSentence(/install Go, or put versitygw on the PATH.*SA01_VERSITYGW/));
  await assert.rejects(kafka.obtain(), oneSentence(/install a JDK .* or set JAVA_HOME/));
  await assert.rejects(redis.obtain(), oneSentence(/install a JDK .* or set JAVA_HOME/));
  process.env.JAVA_HOME = cacheHome;
  await assert.rejects(kafka.obtain(), oneSentence(/JAVA_HOME \(.*\) has no bin\/java/));
  process.env.SA01_TEMPORAL_CLI = '/nowhere/temporal';
  await assert.rejects(temporal.obtain(), oneSentence(/SA01_TEMPORAL_CLI is "\/nowhere\/temporal"/));
});
