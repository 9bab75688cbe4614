// What every tier has to do, on the real service behind it.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { StorageTier } from '../../src/storage/tier.ts';
import type { TierSettings } from '../../src/storage/tiers.ts';
import {
  contentOf,
  factsOf,
  flipped,
  kept,
  never,
  newKey,
  sourceOf,
  stallingSource,
  strandedOf,
  unneeded,
} from './storage.ts';

const MEBIBYTE = 1024 * 1024;
const SIZES = {
  nothing: 0,
  'one byte': 1,
  '700 kB': 700_000,
  '6 MiB': 6 * MEBIBYTE,
  '20 MiB': 20 * MEBIBYTE,
};

/** One tier and, for processes of their own, the settings it was made of. */
export interface TierUnderTest {
  tier: StorageTier;
  settings: TierSettings;
  /** An S3 that ignores conditions: of two files that come at once for one key the last one stays. */
  ignoresConditions?: boolean;
}

export function conforms(title: string, open: (t: TestContext) => Promise<TierUnderTest>): void {
  const tests: [string, (under: TierUnderTest, t: TestContext) => Promise<void>][] = [
    ...Object.entries(SIZES).map(([name, size]): [string, (under: TierUnderTest) => Promise<void>] => [
      `keeps ${name} and gives the same back`,
      ({ tier }) => keeps(tier, size),
    ]),
    ['keeps names of every kind', keepsNames],
    ['does not write what it has already', takesOnce],
    ['keeps one copy of five that come at once', races],
    ['keeps one file of five that come at once for one key', racesOthers],
    ['refuses other bytes under a key that is taken', refusesOthers],
    ['shows nothing of a source that does not give the promised bytes', refusesCorrupt],
    ['shows nothing of a store that is aborted, and leaves nothing', aborts],
    ['tells the errors of a source as they are', tellsSource],
    ['removes twice, and has nothing then', removes],
    ['lists what a killed process left, and removes it', sweeps],
    ['takes no key that could be a path', refusesKeys],
  ];
  for (const [name, run] of tests) test(`${title} ${name}`, async (t) => run(await open(t), t));
}

async function keeps(tier: StorageTier, size: number): Promise<void> {
  const [key, bytes] = [newKey(), contentOf(size)];
  const facts = factsOf(bytes);
  const copy = await tier.store(key, sourceOf(bytes), facts, never);
  assert.match(copy.location, new RegExp(`^(s3|file|redis)://.*${key}$`));
  assert.ok((await kept(tier, key)).equals(bytes));
  assert.equal((await tier.verify(key, facts, never))?.location, copy.location);
  assert.deepEqual(await strandedOf(tier, key), []);
  await tier.remove(key, never);
}

async function keepsNames({ tier }: TierUnderTest): Promise<void> {
  const bytes = contentOf(10);
  const names = [
    'two words.txt',
    'Übergröße 文件 🦊.pdf',
    '../../etc/passwd',
    '/etc/passwd',
    'C:\\autoexec.bat',
    'nul\0byte',
    'line\r\nbreak',
    '\ud800 half a pair',
    'quotes\'"();',
    'x'.repeat(300),
    '🦊'.repeat(300),
    '',
  ];
  for (const filename of names) {
    for (const contentType of ['text/plain; charset=utf-8', 'wrong\r\ntype: ü', null]) {
      const key = newKey();
      const copy = await tier.store(key, sourceOf(bytes), factsOf(bytes, { filename, contentType }), never);
      assert.ok(copy.location.endsWith(key));
      assert.ok((await kept(tier, key)).equals(bytes));
      await tier.remove(key, never);
    }
  }
}

async function takesOnce({ tier }: TierUnderTest): Promise<void> {
  for (const size of [1_000, 9 * MEBIBYTE]) {
    const [key, bytes] = [newKey(), contentOf(size)];
    const first = await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    assert.deepEqual(await tier.store(key, unneeded, factsOf(bytes), never), first);
    await tier.remove(key, never);
  }
}

async function races({ tier }: TierUnderTest): Promise<void> {
  for (const size of [1_000, 700_000, 9 * MEBIBYTE]) {
    const [key, bytes] = [newKey(), contentOf(size)];
    const store = () => tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    const copies = await Promise.all([store(), store(), store(), store(), store()]);
    assert.equal(new Set(copies.map(({ location }) => location)).size, 1);
    assert.ok((await kept(tier, key)).equals(bytes));
    assert.deepEqual(await strandedOf(tier, key), []);
    await tier.remove(key, never);
  }
}

async function racesOthers({ tier, ignoresConditions }: TierUnderTest, t: TestContext): Promise<void> {
  if (ignoresConditions) return t.skip('this S3 ignores If-None-Match');
  // An S3 may refuse the larger one before it has read it.
  for (const size of [1_000, 700_000]) await raceOthers(tier, size);
}

async function raceOthers(tier: StorageTier, size: number): Promise<void> {
  const key = newKey();
  const files = Array.from({ length: 5 }, () => contentOf(size));
  const store = (bytes: Buffer) => tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  const outcomes = await Promise.allSettled(files.map(store));
  const stored = files.filter((_, index) => outcomes[index]!.status === 'fulfilled');
  assert.equal(stored.length, 1);
  assert.ok((await kept(tier, key)).equals(stored[0]!));
  for (const outcome of outcomes)
    if (outcome.status === 'rejected') assert.equal(outcome.reason.code, 'upload_refused');
  await tier.remove(key, never);
}

async function refusesOthers({ tier }: TierUnderTest): Promise<void> {
  const [key, bytes] = [newKey(), contentOf(1_000)];
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  for (const other of [flipped(bytes), contentOf(9 * MEBIBYTE), contentOf(0)]) {
    await assert.rejects(tier.store(key, sourceOf(other), factsOf(other), never), { code: 'upload_refused' });
    await assert.rejects(tier.verify(key, factsOf(other), never), { code: 'upload_corrupt' });
  }
  assert.ok((await kept(tier, key)).equals(bytes));
  assert.deepEqual(await strandedOf(tier, key), []);
  await tier.remove(key, never);
}

async function refusesCorrupt({ tier }: TierUnderTest): Promise<void> {
  for (const size of [1_000, 9 * MEBIBYTE]) {
    const [key, bytes] = [newKey(), contentOf(size)];
    const wrong = [flipped(bytes), bytes.subarray(1), Buffer.concat([bytes, bytes]), Buffer.alloc(0)];
    for (const other of wrong)
      await assert.rejects(tier.store(key, sourceOf(other), factsOf(bytes), never), {
        code: 'upload_corrupt',
      });
    await isEmpty(tier, key);
    await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
    await tier.remove(key, never);
  }
}

async function aborts({ tier }: TierUnderTest): Promise<void> {
  for (const size of [1_000, 20 * MEBIBYTE]) {
    const [key, bytes] = [newKey(), contentOf(size)];
    const { open, stalled } = stallingSource(bytes.subarray(0, -1));
    const abort = new AbortController();
    const storing = tier.store(key, open, factsOf(bytes), abort.signal);
    const ended = assert.rejects(storing, { message: 'no longer wanted' });
    await stalled;
    abort.abort(new Error('no longer wanted'));
    await ended;
    await isEmpty(tier, key);
  }
}

async function tellsSource({ tier }: TierUnderTest): Promise<void> {
  const key = newKey();
  const bytes = contentOf(100);
  async function* breaksOff() {
    yield bytes.subarray(50);
    throw new Error('the spool is gone');
  }
  const failing = async () => Readable.from(breaksOff(), { objectMode: false });
  await assert.rejects(tier.store(key, failing, factsOf(bytes), never), {
    code: 'upload_corrupt',
    message: /the spool is gone/,
  });
  await isEmpty(tier, key);
}

async function removes({ tier }: TierUnderTest): Promise<void> {
  const [key, bytes] = [newKey(), contentOf(1_000)];
  await isEmpty(tier, key);
  await tier.remove(key, never);
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  await tier.remove(key, never);
  await tier.remove(key, never);
  await isEmpty(tier, key);
}

async function sweeps({ tier, settings }: TierUnderTest): Promise<void> {
  const key = newKey();
  const begun = Date.now();
  const child = startStalling(tier.name, settings, key);
  await once(child.stdout!, 'data');
  child.kill('SIGKILL');
  await once(child, 'exit');
  const isOurs = ({ name }: { name: string }) => name.includes(key);
  assert.ok(!(await tier.stranded(begun - 60_000, never)).some(isOurs));
  const [left, ...others] = await strandedOf(tier, key);
  assert.ok(left);
  assert.deepEqual(others, []);
  // S3 tells whole seconds.
  assert.ok(left.since.getTime() > begun - 2_000 && left.since.getTime() < begun + 60_000);
  await left.remove(never);
  await left.remove(never);
  await isEmpty(tier, key);
}

/** A process that begins to store 20 MiB under the key and says so when its source gives no more. */
function startStalling(name: string, settings: TierSettings, key: string): ChildProcess {
  const script = fileURLToPath(new URL('storageStall.ts', import.meta.url));
  return spawn(process.execPath, [script, name, key, JSON.stringify(settings)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

async function refusesKeys({ tier }: TierUnderTest): Promise<void> {
  const bytes = contentOf(1);
  for (const key of ['', 'a', `${'../'.repeat(21)}x`, `${newKey()}/`, `${newKey().toUpperCase()}0`]) {
    const uses = [
      () => tier.store(key, sourceOf(bytes), factsOf(bytes), never),
      () => tier.verify(key, factsOf(bytes), never),
      () => tier.read(key, never),
      () => tier.remove(key, never),
    ];
    for (const use of uses) await assert.rejects(async () => use(), TypeError);
  }
}

async function isEmpty(tier: StorageTier, key: string): Promise<void> {
  assert.equal(await tier.verify(key, factsOf(contentOf(1)), never), undefined);
  await assert.rejects(tier.read(key, never), { code: 'storage_refused' });
  assert.deepEqual(await strandedOf(tier, key), []);
}
