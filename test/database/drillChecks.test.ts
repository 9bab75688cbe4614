import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runDrillChecks } from '../../src/database/drillChecks.ts';
import type { DrillCheck } from '../../src/domain/backups.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const never = new AbortController().signal;

const cases: [sql: string, error: RegExp | null][] = [
  ['SELECT count(*) = 2 FROM notes', null],
  ['VALUES (true) -- with a comment', null],
  ['WITH n AS (SELECT * FROM notes) SELECT bool_and(n > 0) FROM n', null],
  ['SELECT count(*) > 2 FROM notes', /^gives false: expected true$/],
  ['SELECT max(n) IS NULL FROM nowhere', /relation "nowhere" does not exist/],
  ['SELECT null', /^gives null/],
  ["SELECT 'true'", /^gives something else: expected true$/],
  ['SELECT n FROM notes', /^gives several rows: expected one$/],
  ['SELECT true WHERE false', /^gives no row: expected one$/],
  ['SELECT true, true', /^gives 2 values: expected one$/],
  ['DELETE FROM notes RETURNING true', /syntax error/],
  ['WITH gone AS (DELETE FROM notes RETURNING n) SELECT true FROM gone', /must be at the top level/],
  ["SELECT nextval('counter') > 0", /read-only transaction/],
  ['SELECT wipe()', /read-only transaction/],
  ['SELECT true) AS a; DELETE FROM notes; SELECT (true', /multiple commands/],
  ['SELECT true FROM pg_sleep(600)', /statement timeout/],
];

test('A check passes if it gives true, once; what it may not do, and what takes too long, does not pass', async () => {
  await using database = await emptyDatabase();
  await database.client.query(`
    CREATE TABLE notes AS SELECT n FROM generate_series(1, 2) AS n;
    CREATE SEQUENCE counter;
    CREATE FUNCTION wipe() RETURNS boolean LANGUAGE sql AS 'DELETE FROM notes; SELECT true'`);
  const checks = cases.map(([sql], index): DrillCheck => ({ name: `check ${index}`, sql }));
  const outcomes = await runDrillChecks(database.url, checks, never, 500);
  assert.equal(outcomes.length, cases.length);
  for (const [index, [sql, expected]] of cases.entries()) {
    const { name, passed, error } = outcomes[index]!;
    assert.equal(name, `check ${index}`);
    assert.equal(passed, expected === null, `${sql}: ${error}`);
    if (expected) assert.match(error!, expected, sql);
  }
  assert.equal((await database.client.query('SELECT FROM notes')).rowCount, 2);
});

test('A connection that is lost says nothing of the check, and an abort ends a check that runs', async () => {
  await using database = await emptyDatabase();
  const sql = 'SELECT pg_terminate_backend(pg_backend_pid())';
  await assert.rejects(runDrillChecks(database.url, [{ name: 'a', sql }], never), {
    code: 'postgres_unavailable',
  });
  const abort = new AbortController();
  const hangs = [{ name: 'hangs', sql: 'SELECT true FROM pg_sleep(600)' }];
  const running = runDrillChecks(database.url, hangs, abort.signal);
  const rejected = assert.rejects(running, { code: 'postgres_unavailable' });
  const sleeping = async () => {
    const { rows } = await database.client.query(
      `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`,
    );
    return rows.length > 0;
  };
  await eventually('the check to run', sleeping);
  abort.abort();
  await rejected;
});
