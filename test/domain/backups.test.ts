import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { freshnessFaults, sizeFault } from '../../src/domain/backupFreshness.ts';
import { backupTaskFaults, drillInputFaults, keyFaults } from '../../src/domain/backupInput.ts';
import { parseManifest } from '../../src/domain/backupManifest.ts';
import { parseRetention } from '../../src/domain/backupRetention.ts';
import {
  attemptId,
  backupId,
  backupTaskOf,
  compareRows,
  keyOfWorkflow,
  manifestOf,
} from '../../src/domain/backups.ts';

suite('a task', () => {
  const task = { type: 'files', source: '/var/lib/agents' };
  const good = [
    task,
    { ...task, destination: null, metadata: null },
    {
      ...task,
      destination: 'file:///backups/x y',
      metadata: { accept_smaller: true },
      queued_at: '2026-01-31T12:00:00Z',
    },
    { type: 'storage', source: 's3', destination: 's3://bucket-1/pre/fix' },
  ];
  for (const one of good) test(JSON.stringify(one), () => assert.deepEqual(backupTaskFaults(one), []));

  const bad: [unknown, RegExp][] = [
    [null, /takes an object/],
    [[], /takes an object/],
    [{ source: 'x' }, /^type must be/],
    [{ ...task, source: '' }, /^source must be/],
    [{ ...task, source: 'x'.repeat(1_025) }, /^source must be/],
    [{ ...task, source: 'a\u0000b' }, /^source must be/],
    [{ ...task, source: ['x'] }, /^source must be/],
    [{ ...task, destination: 'https://x/y' }, /^destination must be/],
    [{ ...task, destination: 's3://u:p@bucket/x' }, /hidden/],
    [{ ...task, destination: 'file://host/x' }, /^destination must be/],
    [{ ...task, destination: 's3://bucket/x?versionId=1' }, /^destination must be/],
    [{ ...task, metadata: [] }, /^metadata must be/],
    [{ ...task, metadata: { x: 'y'.repeat(10_001) } }, /^metadata must be/],
    [{ ...task, queued_at: 'yesterday' }, /^queued_at must be/],
    [{ ...task, dest: 'x' }, /^dest is no field/],
  ];
  for (const [one, sentence] of bad)
    test(`not ${JSON.stringify(one)?.slice(0, 60)}`, () =>
      assert.match(backupTaskFaults(one).join('; '), sentence));

  test('whatever comes, there is an answer and no throw', () => {
    fc.assert(
      fc.property(
        fc.anything(),
        (input) => Array.isArray(backupTaskFaults(input)) && Array.isArray(drillInputFaults(input)),
      ),
    );
  });

  test('of Kafka keeps its time in UTC', () => {
    const message = {
      type: 'database',
      source: 'core',
      destination: null,
      metadata: {},
      queuedAt: Date.UTC(2026, 0, 31, 12),
    };
    assert.deepEqual(backupTaskOf(message), {
      type: 'database',
      source: 'core',
      destination: null,
      metadata: {},
      queued_at: '2026-01-31T12:00:00.000Z',
    });
  });
});

test('the key is the workflow id without its prefix, and fits its column', () => {
  assert.equal(keyOfWorkflow('backup/backup:database:core:1'), 'backup:database:core:1');
  assert.equal(keyOfWorkflow('by-hand'), '', 'or it would share a key with backup/by-hand');
  assert.deepEqual(
    [keyFaults('x'.repeat(255)), keyFaults('x'.repeat(256)).length, keyFaults('').length],
    [[], 1, 1],
  );
});

test('an id says when, and is safe as a part of a path', () => {
  const id = backupId('2026-11-23T12:08:18.123Z', '1F3C9A2B-0000'.toLowerCase());
  assert.equal(id, '20261123t120818z-1f3c9a2b');
  assert.equal(attemptId(id, 2), '20261123t120818z-1f3c9a2b-2');
});

test('a drill tells each table that differs, is missing, or was not there', () => {
  assert.deepEqual(compareRows({ a: 1, b: 2, c: 3 }, { a: 1, b: 5, d: 0 }), {
    compared: 4,
    found: 6,
    differences: [
      'b: 2 backed up, 5 restored',
      'c: 3 backed up, nothing restored',
      'd is not in the manifest: 0 restored',
    ],
  });
});

suite('a manifest', () => {
  const file = { name: 'data', size: 5, sha256: 'aa', plainSize: 9, plainSha256: 'bb' } as const;
  const manifest = manifestOf(
    {
      id: 'i',
      idempotency_key: 'k',
      type: 'redis',
      source: 'redis',
      destination: 'file:///b',
      metadata: {},
      started_at: '2026-01-31T12:00:00Z',
    },
    {
      files: [file, { ...file, name: 'globals', size: 2 }],
      versions: {},
      notes: [],
      compression: 'zstd',
      recipients: [],
    },
    '2026-01-31T12:01:00Z',
  );
  test('has the size of all files and the sum of the data', () =>
    assert.deepEqual([manifest.size, manifest.sha256], [7, 'aa']));
  test('is read back', () => assert.deepEqual(parseManifest(JSON.stringify(manifest)), manifest));
  for (const [name, change] of Object.entries({
    format: 2,
    id: 7,
    type: 'tape',
    size: -1.5,
    started_at: 'x',
    content: null,
  }))
    test(`with another ${name} is none`, () =>
      assert.equal(parseManifest(JSON.stringify({ ...manifest, [name]: change })), undefined));
  for (const [name, change] of Object.entries({
    files: ['data'],
    versions: undefined,
    notes: [1],
    compression: 'rar',
    recipients: undefined,
    rows: { a: 'many' },
    entries: -1,
  }))
    test(`with other ${name} in its content is none`, () => {
      const content = { ...manifest.content, [name]: change };
      assert.equal(parseManifest(JSON.stringify({ ...manifest, content })), undefined);
    });
  test('whatever the text is, nothing is thrown', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => parseManifest(text) === undefined));
  });
});

suite('the size floor', () => {
  const cases: [size: number, lastGood: number | null, accept: boolean, isFault: boolean][] = [
    [0, null, false, true],
    [0, 100, true, true],
    [1, null, false, false],
    [50, 100, false, false],
    [49, 100, false, true],
    [49, 100, true, false],
    [1_000, 100, false, false],
  ];
  for (const [size, lastGood, accept, isFault] of cases)
    test(`${size} bytes after ${lastGood}${accept ? ', accepted' : ''}`, () =>
      assert.equal(sizeFault(size, lastGood, accept) !== undefined, isFault));
});

test('freshness: each fault has its sentence', () => {
  const now = Date.UTC(2026, 0, 10);
  const limits = { now, maxAgeHours: 50, since: now - 49 * 3_600_000 };
  const times = {
    type: 'database',
    source: 'core',
    destination: 'd',
    lastVerifiedAt: (now - 51 * 3_600_000) as number | null,
    lastEndedAt: now as number | null,
    lastState: 'failed',
    lastError: 'e',
    lastRestoredAt: null,
    lastDrillAt: now as number | null,
    lastDrillPassed: false,
    lastDrillError: 'd',
    size: null,
    durationSeconds: null,
  };
  const faults = (...all: (typeof times)[]) => freshnessFaults('core', all, limits);
  assert.deepEqual(faults(times), [
    'no verified backup of core for 50 h: the last good one is 51 h old',
    'the last backup of core to d failed: e',
    'the last restore drill of core failed: d',
  ]);
  const well = { ...times, lastVerifiedAt: now, lastState: 'verified', lastDrillPassed: true };
  assert.deepEqual(faults(well), []);
  const drilled = { ...well, lastDrillPassed: false, lastDrillAt: now - 2 };
  assert.deepEqual(faults(drilled, { ...well, lastDrillAt: now - 1 }), [], 'the newest drill, wherever');
  assert.equal(faults({ ...well, lastDrillAt: now - 3 }, { ...well, lastDrillAt: null }, drilled).length, 1);
  const none = { ...well, lastVerifiedAt: null };
  assert.deepEqual([faults(), faults(none)], [[], []]);
  for (const all of [[], [none]])
    assert.deepEqual(freshnessFaults('core', all, { ...limits, since: 0 }), [
      'no verified backup of core for 50 h: there is none yet',
    ]);
  assert.deepEqual(faults(none, well), [], 'one good backup somewhere is enough');
  const elsewhere = { ...well, lastVerifiedAt: null, lastState: 'failed', lastEndedAt: now - 49 * 3_600_000 };
  assert.deepEqual(faults(well, elsewhere), ['the last backup of core to d failed: e']);
  const longAgo = { ...elsewhere, lastEndedAt: now - 51 * 3_600_000 };
  assert.deepEqual(faults(well, longAgo), [], 'nobody has tried that place again');
});

test('a policy is read as people write it', () => {
  assert.deepEqual(parseRetention('last=3, daily=7,within=30d'), { last: 3, daily: 7, withinDays: 30 });
  assert.equal(parseRetention('all'), undefined);
  for (const text of [
    '',
    'last',
    'last=-1',
    'hourly=3',
    'last=1,last=2',
    'last=0',
    'minimum=3',
    'constructor=1',
  ])
    assert.equal(parseRetention(text), null, text);
});
