import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { judgeBackups } from '../../src/database/backupProbe.ts';
import {
  attemptsOf,
  beginBackup,
  beginRemoval,
  findBackup,
  lockNewestAttempt,
  nextAttempt,
  readBackupTimes,
  recordEnded,
  recordRemoved,
  recordVerified,
  setHold,
} from '../../src/database/backups.ts';
import { openPool, type Queryable } from '../../src/database/postgres.ts';
import {
  createScratch,
  dropScratch,
  recordDrill,
  scratchBegan,
  scratchName,
  scratchNames,
} from '../../src/database/restoreDrills.ts';
import type { BackupAddress } from '../../src/domain/backupFacts.ts';
import { attemptId, type BackupManifest, manifestOf } from '../../src/domain/backups.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const group = { type: 'database', source: 'core', destination: 'file:///backups' } as const;
const day = (number: number): string => new Date(Date.UTC(2026, 0, number, 3)).toISOString();

const newBackup = (id: string, started_at = day(1)) => ({
  ...group,
  id,
  idempotency_key: `key-${id}`,
  metadata: { asked: 'by hand' },
  started_at,
});

const addressOf = (id: string, attempt: number): BackupAddress => ({
  type: 'database',
  source: 'core',
  id: attemptId(id, attempt),
});

function manifest(id: string, started_at = day(1), plainSize = 1_000): BackupManifest {
  const file = { name: 'data', size: 500, sha256: 'aa', plainSize, plainSha256: 'bb' } as const;
  const content = {
    files: [file],
    versions: {},
    rows: {},
    notes: [],
    compression: 'zstd',
    recipients: [],
  } as const;
  return manifestOf(
    newBackup(id, started_at),
    { ...content, files: [file], notes: [], recipients: [] },
    started_at,
  );
}

/** A verified backup of that day. */
async function verified(
  client: Queryable,
  id: string,
  started_at = day(1),
  plainSize?: number,
): Promise<void> {
  await beginBackup(client, newBackup(id, started_at));
  const attempt = await nextAttempt(client, id);
  await recordVerified(client, manifest(id, started_at, plainSize), addressOf(id, attempt));
}

const states = async (client: Queryable): Promise<Record<string, string>> => {
  const { rows } = await client.query('SELECT id, state FROM orchestrator.backup ORDER BY id');
  return Object.fromEntries(rows.map(({ id, state }) => [id, state]));
};

suite('one key, one backup', () => {
  test('a second beginning finds the first, also at the same moment', async () => {
    await using database = await outboxDatabase();
    const pool = openPool(database.url);
    const same = ['a', 'b', 'c', 'd'].map((id) =>
      beginBackup(pool, { ...newBackup(id), idempotency_key: 'k' }),
    );
    const ids = new Set((await Promise.all(same)).map(({ id }) => id));
    assert.equal(ids.size, 1);
    await pool.end();
  });

  test('what is verified stays so: it is found with its manifest, and no try may begin', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await verified(client, 'a');
    const again = await beginBackup(client, { ...newBackup('other'), idempotency_key: 'key-a' });
    assert.deepEqual([again.id, again.manifest], ['a', manifest('a')]);
    await assert.rejects(nextAttempt(client, 'a'), { code: 'backup_refused' });
    assert.equal(await recordEnded(client, 'a', 'failed', 'late'), false);
    assert.deepEqual(await states(client), { a: 'verified' });
    assert.deepEqual(await attemptsOf(client, 'a'), [], 'nothing of it is to be cleared away');
  });

  test('one that failed begins anew under its id, with tries that are numbered on', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await beginBackup(client, newBackup('a'));
    assert.equal(await nextAttempt(client, 'a'), 1);
    await recordEnded(client, 'a', 'failed', 'backup_failed: x');
    assert.equal((await beginBackup(client, { ...newBackup('b'), idempotency_key: 'key-a' })).id, 'a');
    assert.deepEqual(await states(client), { a: 'running' });
    const other = { ...newBackup('c'), idempotency_key: 'key-a', source: 'other' };
    await recordEnded(client, 'a', 'failed', 'x');
    await assert.rejects(beginBackup(client, other), { code: 'backup_refused' });
    assert.deepEqual(await states(client), { a: 'failed' });
    await assert.rejects(
      nextAttempt(client, 'a'),
      { code: 'backup_refused' },
      'for a worker that comes late',
    );
    await beginBackup(client, newBackup('a'));
    assert.equal(await nextAttempt(client, 'a'), 2);
    assert.deepEqual(await attemptsOf(client, 'a'), [], 'it runs');
    await recordEnded(client, 'a', 'cancelled', null);
    assert.deepEqual(await attemptsOf(client, 'a'), ['a-1', 'a-2']);
  });

  test('one that begins anew is as old as that beginning: retention keeps the newest', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const pool = openPool(database.url);
    await beginBackup(client, newBackup('late', day(1)));
    await recordEnded(client, 'late', 'failed', 'x');
    for (const number of [20, 21, 22]) await verified(client, `b${number}`, day(number));
    const again = await beginBackup(client, { ...newBackup('other', day(31)), idempotency_key: 'key-late' });
    assert.deepEqual([again.id, again.started_at], ['late', day(31)]);
    await recordVerified(
      client,
      manifest('late', day(31)),
      addressOf('late', await nextAttempt(client, 'late')),
    );
    const found = new Map(['late', 'b20', 'b21', 'b22'].map((id) => [id, null]));
    const { removing } = await beginRemoval(pool, group, { last: 2 }, found);
    assert.deepEqual(
      removing.map(({ id }) => id),
      ['b20', 'b21'],
    );
    await pool.end();
  });

  test('the key of a backup that was removed gives none', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await verified(client, 'a');
    const again = () => beginBackup(client, { ...newBackup('b', day(9)), idempotency_key: 'key-a' });
    for (const state of ['removing', 'removed']) {
      await client.query('UPDATE orchestrator.backup SET state = $1', [state]);
      await assert.rejects(again(), { code: 'backup_refused', message: /was removed: take another key/ });
      await assert.rejects(nextAttempt(client, 'a'), { code: 'backup_refused' });
      assert.deepEqual(await states(client), { a: state });
    }
  });

  test('only the newest try may become the backup', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await beginBackup(client, newBackup('a'));
    for (let tries = 0; tries < 2; tries += 1) await nextAttempt(client, 'a');
    await assert.rejects(lockNewestAttempt(client, 'a', addressOf('a', 1)), { code: 'backup_refused' });
    await lockNewestAttempt(client, 'a', addressOf('a', 2));
    await recordVerified(client, manifest('a'), addressOf('a', 2));
    await lockNewestAttempt(client, 'a', addressOf('a', 2));
    await recordEnded(client, 'a', 'cancelled', null);
  });

  test('nobody ends it while its try becomes the backup', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await beginBackup(client, newBackup('a'));
    const attempt = await nextAttempt(client, 'a');
    await client.query('BEGIN');
    await lockNewestAttempt(client, 'a', addressOf('a', attempt));
    const pool = openPool(database.url);
    const ended = recordEnded(pool, 'a', 'failed', 'late');
    await eventually('it to wait', async () => {
      const { rows } = await pool.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return rows.length === 1;
    });
    await recordVerified(client, manifest('a'), addressOf('a', attempt));
    await client.query('COMMIT');
    assert.equal(await ended, false);
    assert.deepEqual(await states(client), { a: 'verified' });
    await pool.end();
  });
});

test('the last good size is that of the same source and destination, of what was verified once', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await verified(client, 'a', day(1), 700);
  await verified(client, 'b', day(2), 900);
  await beginBackup(client, newBackup('failed', day(3)));
  await recordEnded(client, 'failed', 'failed', 'x');
  assert.equal((await beginBackup(client, newBackup('c', day(4)))).lastGoodSize, 900);
  const elsewhere = { ...newBackup('d'), destination: 's3://bucket/x' };
  assert.equal((await beginBackup(client, elsewhere)).lastGoodSize, null);
});

test('the catalogue is written anew from manifests alone', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await verified(client, 'a', day(1));
  await verified(client, 'b', day(2));
  const columns =
    'id, idempotency_key, type, source, destination, metadata, state, attempts, started_at, ended_at, address, size, plain_size, sha256, manifest';
  const read = async () =>
    (await client.query(`SELECT ${columns} FROM orchestrator.backup ORDER BY id`)).rows;
  const before = await read();
  await client.query('DELETE FROM orchestrator.backup');
  for (const id of ['b', 'a', 'a'])
    await recordVerified(client, manifest(id, day(id === 'a' ? 1 : 2)), addressOf(id, 1));
  assert.deepEqual(await read(), before);
  assert.equal((await findBackup(client, { source: 'core' }))?.id, 'b');
  assert.deepEqual((await findBackup(client, { id: 'a' }))?.address, addressOf('a', 1));
  assert.equal(await findBackup(client, { source: 'other' }), undefined);
});

suite('retention', () => {
  const policy = { last: 2, minimum: 1 };
  const all = new Map(['b1', 'b2', 'b3', 'b4'].map((id) => [id, null]));

  test('takes what goes out of what counts at once, and tells again what is still to be removed', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const pool = openPool(database.url);
    for (const number of [1, 2, 3, 4]) await verified(client, `b${number}`, day(number));
    await setHold(client, 'b1', 'audit');
    const first = await beginRemoval(pool, group, policy, all);
    assert.deepEqual(first.removing, [{ id: 'b2', address: addressOf('b2', 1) }]);
    assert.deepEqual(first.decisions.find(({ id }) => id === 'b1')?.reasons, ['on hold: audit']);
    assert.deepEqual(await states(client), {
      b1: 'verified',
      b2: 'removing',
      b3: 'verified',
      b4: 'verified',
    });
    assert.equal(await findBackup(client, { id: 'b2' }), undefined);
    await assert.rejects(setHold(client, 'b2', 'too late'), { code: 'invalid_input' });
    assert.deepEqual(
      (await beginRemoval(pool, group, policy, all)).removing,
      first.removing,
      'as after a kill',
    );
    await recordRemoved(client, 'b2');
    assert.deepEqual((await beginRemoval(pool, group, policy, all)).removing, []);
    await setHold(client, 'b1', null);
    assert.deepEqual(
      (await beginRemoval(pool, group, policy, all)).removing.map(({ id }) => id),
      ['b1'],
    );
    await pool.end();
  });

  test('counts only what is at the destination, and heeds the holds there', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const pool = openPool(database.url);
    for (const number of [1, 2, 3, 4]) await verified(client, `b${number}`, day(number));
    const there = new Map([
      ['b1', 'an audit'],
      ['b2', null],
      ['b4', null],
    ]);
    const { decisions, removing } = await beginRemoval(pool, group, policy, there);
    assert.deepEqual(removing, [], 'b3 does not stand in for b2');
    assert.deepEqual(decisions.find(({ id }) => id === 'b1')?.reasons, ['on hold: an audit']);
    await pool.end();
  });

  test('removes nothing after a run that failed, and nothing of another destination', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const pool = openPool(database.url);
    for (const number of [1, 2, 3]) await verified(client, `b${number}`, day(number));
    await beginBackup(client, newBackup('bad', day(4)));
    await recordEnded(client, 'bad', 'failed', 'x');
    assert.deepEqual((await beginRemoval(pool, group, policy, all)).removing, []);
    assert.deepEqual(
      (await beginRemoval(pool, { ...group, destination: 'file:///other' }, policy, all)).decisions,
      [],
    );
    await pool.end();
  });
});

test('the times of each source: last success, last end, last restore, the last drill', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  await verified(client, 'a', day(1), 1_000);
  await beginBackup(client, newBackup('bad', day(2)));
  await recordEnded(client, 'bad', 'failed', 'backup_failed: no disk');
  const drill = {
    ...group,
    id: 'd1',
    backup: 'a',
    startedAt: day(3),
    endedAt: day(3),
    passed: true,
    evidence: null,
    error: null,
  };
  await recordDrill(client, drill);
  await recordDrill(client, { ...drill, passed: false, error: 'the same again changes nothing' });
  const [times, ...others] = await readBackupTimes(client);
  assert.deepEqual(others, []);
  assert.ok(times!.lastEndedAt! > Date.parse(day(2)));
  assert.deepEqual(
    { ...times, lastEndedAt: 0 },
    {
      ...group,
      lastVerifiedAt: Date.parse(day(1)),
      lastEndedAt: 0,
      lastState: 'failed',
      lastError: 'backup_failed: no disk',
      lastRestoredAt: Date.parse(day(3)),
      lastDrillAt: Date.parse(day(3)),
      lastDrillPassed: true,
      lastDrillError: null,
      size: 500,
      durationSeconds: 0,
    },
  );
  const failed = { ...drill, endedAt: day(4), passed: false, error: 'drill_failed: x' };
  await recordDrill(client, { ...failed, id: 'elsewhere', destination: 's3://bucket/x' });
  await recordDrill(client, {
    ...failed,
    id: 'mistyped',
    backup: 'x',
    type: null,
    source: null,
    destination: null,
  });
  assert.equal((await readBackupTimes(client))[0]!.lastDrillPassed, true);
  await recordDrill(client, { ...failed, id: 'd2', backup: null, type: null, destination: null });
  const [after] = await readBackupTimes(client);
  assert.deepEqual(
    [after!.lastDrillPassed, after!.lastDrillError, after!.lastRestoredAt],
    [false, 'drill_failed: x', Date.parse(day(3))],
  );
});

test('health: what is stale, what failed, and what was never there is at least moderate; the rest is well', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const probe = (maxAgeHours = 50, source = 'core') => judgeBackups(client, { source, maxAgeHours });
  const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000).toISOString();
  assert.equal(await probe(), undefined, 'a fresh deployment');
  await client.query(
    `UPDATE orchestrator.migration SET run_on = now() - interval '3 days' WHERE name = '0009_backups'`,
  );
  assert.match((await probe())!.error, /there is none yet/);
  await verified(client, 'a', hoursAgo(30));
  assert.equal(await probe(), undefined);
  const stale = await probe(24);
  assert.deepEqual([stale!.atLeast, /the last good one is 30 h old/.test(stale!.error)], ['moderate', true]);
  const drill = {
    ...group,
    id: 'd',
    backup: 'a',
    startedAt: day(3),
    endedAt: day(3),
    passed: false,
    evidence: null,
    error: 'drill_failed: x',
  };
  await recordDrill(client, drill);
  assert.match((await probe())!.error, /the last restore drill of core failed: drill_failed: x/);
  await recordDrill(client, { ...drill, id: 'd2', endedAt: day(4), passed: true });
  assert.equal(await probe(), undefined);
  await beginBackup(client, newBackup('b', hoursAgo(1)));
  assert.equal(await probe(), undefined, 'one that runs is no failure');
  await recordEnded(client, 'b', 'failed', 'backup_failed: disk');
  assert.match(
    (await probe())!.error,
    /the last backup of core to file:\/\/\/backups failed: backup_failed: disk/,
  );
});

test('scratch databases are made, found by their names, and dropped with their connections; no other name will do', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const own = crypto.randomUUID().slice(0, 8);
  // Of now: drills of other tests drop what is old.
  const now = Math.floor(Date.now() / 1_000) * 1_000;
  const name = scratchName(now, own);
  await createScratch(client, name);
  assert.ok((await scratchNames(client)).includes(name));
  assert.equal(scratchBegan(name), now);
  await dropScratch(client, name);
  await dropScratch(client, name);
  assert.ok(!(await scratchNames(client)).includes(name));
  for (const other of ['somaagent_core', 'restore_drill_1', `${name}; DROP DATABASE x`, ''])
    await assert.rejects(dropScratch(client, other), TypeError);
});
