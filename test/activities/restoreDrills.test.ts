import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { watch } from 'node:fs';
import { chmod, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { setInterval } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createRestoreDrillActivities } from '../../src/activities/restoreDrills.ts';
import { beginBackup, nextAttempt, recordVerified } from '../../src/database/backups.ts';
import { openPool } from '../../src/database/postgres.ts';
import { createScratch, isScratchName, scratchName, scratchNames } from '../../src/database/restoreDrills.ts';
import type { BackupContent, BackupType } from '../../src/domain/backupFacts.ts';
import { type CataloguedBackup, manifestOf, type RestoreDrillInput } from '../../src/domain/backups.ts';
import { ownRedis } from '../support/backupRedis.ts';
import { backUp, backupPlace } from '../support/backups.ts';
import { emptyDatabase, outboxDatabase } from '../support/database.ts';
import { type DrillTry, drillTry, HANGS, scratchEnd } from '../support/drills.ts';
import { eventually } from '../support/eventually.ts';

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

/** A database, a directory, and a backup of each. */
async function drills() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  await database.client.query('CREATE TABLE notes AS SELECT n FROM generate_series(1, 100) AS n');
  const place = stack.use(await backupPlace({ databases: { core: database.url } }));
  const tree = path.join(place.directory, 'sources', 'tree');
  await mkdir(tree);
  await writeFile(path.join(tree, 'file'), 'content');
  const backupOf = async (type: BackupType, source: string): Promise<CataloguedBackup> => {
    const { address, content } = await backUp(place, type, source);
    return { id: 'a', type, source, destination: place.destination.url, address, content };
  };
  const scratchDirectory = path.join(place.directory, 'scratch');
  await mkdir(scratchDirectory);
  const given = { databaseUrl: database.url, scratchDirectory, settings: place.settings };
  return {
    database,
    scratchDirectory,
    given,
    ofDatabase: () => backupOf('database', 'core'),
    ofTree: () => backupOf('files', tree),
    ofRedis: async () => {
      await using redis = await ownRedis({});
      place.settings.redis.redis = redis.url;
      return await backupOf('redis', 'redis');
    },
    fileOf: ({ address: { type, source, id } }: CataloguedBackup) =>
      path.join(place.directory, 'backups', type, source, id, 'data'),
    /** The scratch databases of this drill; other tests have theirs on the same server. */
    scratches: async (runId: string) =>
      (await scratchNames(database.client)).filter((name) => name.endsWith(scratchEnd(runId))),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** Begins a try that hangs in its check, and waits until it does so. */
async function hang(world: Awaited<ReturnType<typeof drills>>, given: DrillTry, begin: () => void) {
  begin();
  const name = await eventually('the scratch database', async () => (await world.scratches(given.runId))[0]);
  await eventually('the check to run', async () => {
    const { rows } = await world.database.client.query(
      "SELECT FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep'",
      [name],
    );
    return rows.length > 0;
  });
}

test('a database is restored, compared, asked, and dropped', async () => {
  await using world = await drills();
  const checks = [
    { name: 'has notes', sql: 'SELECT count(*) = 100 FROM notes' },
    { name: 'has orders', sql: 'SELECT count(*) > 0 FROM orders' },
  ];
  const runId = crypto.randomUUID();
  const { seconds, ...evidence } = await drillTry({
    ...world.given,
    runId,
    backup: await world.ofDatabase(),
    checks,
  }).evidence;
  assert.ok(seconds > 0);
  assert.deepEqual(evidence, {
    compared: 1,
    found: 100,
    differences: [],
    checks: [
      { name: 'has notes', passed: true, error: null },
      { name: 'has orders', passed: false, error: 'relation "orders" does not exist' },
    ],
  });
  assert.deepEqual(await world.scratches(runId), []);
});

test('what a killed try left is removed by the next, what is a day old too; a drill that runs keeps its database', async () => {
  await using world = await drills();
  const backup = await world.ofDatabase();
  const [killed, running] = [crypto.randomUUID(), crypto.randomUUID()];

  const first: DrillTry = { ...world.given, runId: killed, backup, checks: HANGS };
  const script = path.join(import.meta.dirname, '..', 'support', 'drillProcess.ts');
  const env = { ...process.env, DRILL_TRY: JSON.stringify(first) };
  const child = spawn(process.execPath, [script], { env, stdio: 'inherit' });
  const ended = once(child, 'exit');
  await hang(world, first, () => {});
  child.kill('SIGKILL');
  await ended;

  const other = { ...first, runId: running };
  let another!: ReturnType<typeof drillTry>;
  await hang(world, other, () => {
    another = drillTry(other);
  });
  const old = scratchName(Date.now() - DAY_MS - 60_000, crypto.randomUUID().slice(0, 8));
  await createScratch(world.database.client, old);
  const left = await world.scratches(killed);
  assert.equal(left.length, 1);
  const [beside] = await world.scratches(running);

  const { differences } = await drillTry({ ...first, checks: [] }).evidence;
  assert.deepEqual(differences, []);
  const names = await scratchNames(world.database.client);
  assert.deepEqual(
    [...left, old, beside!].map((name) => names.includes(name)),
    [false, false, true],
  );

  another.cancel();
  await assert.rejects(another.evidence, { name: 'CancelledFailure' });
  assert.deepEqual(await world.scratches(running), []);
});

test('when all is read a drill may be silent for hours, and no longer', async (context) => {
  await using world = await drills();
  const given = {
    ...world.given,
    runId: crypto.randomUUID(),
    backup: await world.ofDatabase(),
    checks: HANGS,
  };
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const { evidence } = drillTry(given);
  let over = false;
  const ended = assert.rejects(evidence, { type: 'backup_failed', message: /for 360 minutes$/ });
  evidence.catch(() => {
    over = true;
  });
  const isAsking = async () => {
    const { rows } = await world.database.client.query(
      "SELECT FROM pg_stat_activity WHERE datname LIKE '%' || $1 AND wait_event = 'PgSleep'",
      [scratchEnd(given.runId)],
    );
    return rows.length > 0;
  };
  for await (const _ of setInterval(50)) if (await isAsking()) break;
  context.mock.timers.tick(5 * HOUR_MS);
  assert.ok((await isAsking()) && !over);
  context.mock.timers.tick(HOUR_MS);
  await ended;
});

test('the same for directories', async () => {
  await using world = await drills();
  const runId = crypto.randomUUID();
  const old = scratchName(Date.now() - DAY_MS - 60_000, 'aaaaaaaa');
  const beside = scratchName(Date.now(), 'bbbbbbbb');
  const own = `${scratchName(Date.now() - 60_000, 'cccccccc').slice(0, -9)}${scratchEnd(runId)}`;
  for (const name of [old, beside, own, 'somebody-elses'])
    await mkdir(path.join(world.scratchDirectory, name, 'below'), { recursive: true });
  const backup = await world.ofTree();
  const { differences, compared } = await drillTry({ ...world.given, runId, backup }).evidence;
  assert.deepEqual([differences, compared], [[], 1]);
  assert.deepEqual((await readdir(world.scratchDirectory)).sort(), [beside, 'somebody-elses'].sort());
});

test('a backup that was changed where it lies fails its drill at once', async () => {
  await using world = await drills();
  for (const backup of [await world.ofDatabase(), await world.ofTree()]) {
    const bytes = await readFile(world.fileOf(backup));
    bytes[bytes.length >> 1]! ^= 1;
    await writeFile(world.fileOf(backup), bytes);
    await assert.rejects(drillTry({ ...world.given, runId: crypto.randomUUID(), backup }).evidence, {
      type: 'drill_failed',
      nonRetryable: true,
      message: /another SHA-256/,
    });
  }
});

test('a tree is unpacked where the next drill would look for what a killed one left', async () => {
  await using world = await drills();
  const seen = new Set<string | null>();
  const watcher = watch(world.scratchDirectory, (_, name) => void seen.add(name));
  try {
    await drillTry({ ...world.given, runId: crypto.randomUUID(), backup: await world.ofTree() }).evidence;
    await writeFile(path.join(world.scratchDirectory, 'last'), '');
    await eventually('the last event', () => seen.has('last'));
    seen.delete('last');
    assert.ok(seen.size > 0);
    for (const name of seen) assert.ok(isScratchName(name!), name!);
  } finally {
    watcher.close();
  }
});

test('nothing is restored to a place where somebody else may write, or that somebody else has put there', async () => {
  await using world = await drills();
  const { given, scratchDirectory } = world;
  const backup = await world.ofTree();
  const link = `${scratchDirectory}-link`;
  await symlink(scratchDirectory, link);
  const refused = async (directory: string) => {
    const runId = crypto.randomUUID();
    const { evidence } = drillTry({ ...given, runId, backup, scratchDirectory: directory });
    await assert.rejects(evidence, { type: 'drill_failed', message: /is not this service's own/ });
  };
  await refused(link);
  await chmod(scratchDirectory, 0o777);
  await refused(scratchDirectory);
});

test('of a Redis its dump is looked at, and the evidence says so', async () => {
  await using world = await drills();
  const drill = (backup: CataloguedBackup) =>
    drillTry({ ...world.given, runId: crypto.randomUUID(), backup }).evidence;
  const { checks } = await drill(await world.ofRedis());
  assert.deepEqual(checks, [
    { name: 'end and checksum of the dump, which no Redis has loaded,', passed: true, error: null },
  ]);
  const other = await drill({ ...(await world.ofTree()), type: 'redis' });
  assert.match(other.checks[0]!.error!, /is no dump/);
});

test('a subscription is not restored: with it the scratch database could not be dropped', async () => {
  await using world = await drills();
  const { client } = world.database;
  await client.query('CREATE PUBLICATION ours FOR ALL TABLES');
  await client.query(`CREATE SUBSCRIPTION theirs CONNECTION 'dbname=elsewhere' PUBLICATION ours
    WITH (connect = false, slot_name = NONE)`);
  try {
    const runId = crypto.randomUUID();
    const backup = await world.ofDatabase();
    const { differences } = await drillTry({ ...world.given, runId, backup }).evidence;
    assert.deepEqual(differences, []);
    assert.deepEqual(await world.scratches(runId), []);
  } finally {
    await client.query('DROP SUBSCRIPTION theirs');
  }
});

test('what is drilled is of the type that was asked for, by default a database, whatever else has its name', async () => {
  await using database = await outboxDatabase();
  const pool = openPool(database.url);
  try {
    for (const [day, type] of (['database', 'redis', 'files'] as const).entries()) {
      const started_at = new Date(Date.UTC(2026, 0, day + 1)).toISOString();
      const begun = {
        id: type,
        idempotency_key: type,
        type,
        source: 'same',
        destination: 'file:///b',
        started_at,
      };
      await beginBackup(pool, { ...begun, metadata: {} });
      const address = { type, source: 'same', id: `${type}-${await nextAttempt(pool, type)}` };
      const content: BackupContent = {
        ...{ files: [], versions: {}, notes: [], recipients: [] },
        compression: 'none',
      };
      const manifest = manifestOf({ ...begun, metadata: {} }, content, started_at);
      await recordVerified(pool, manifest, address);
    }
    const { chooseBackup } = createRestoreDrillActivities({ pool });
    const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
    const chosen = async (input: RestoreDrillInput) =>
      ((await environment.run(chooseBackup, input)) as CataloguedBackup).type;
    assert.equal(await chosen({ source: 'same' }), 'database');
    assert.equal(await chosen({ source: 'same', type: 'redis' }), 'redis');
    assert.equal(await chosen({ backup: 'files' }), 'files');
    await assert.rejects(chosen({ source: 'same', type: 'storage' }), {
      message: 'there is no verified backup of the type storage of same',
    });
  } finally {
    await pool.end();
  }
});
