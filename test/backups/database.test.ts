import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { restoreDatabase, restoreFile } from '../../src/backups/restore.ts';
import { countRows } from '../../src/database/backupSnapshot.ts';
import { backUp, backupPlace, never } from '../support/backups.ts';
import { emptyDatabase, type TestDatabase } from '../support/database.ts';

const ROWS = 150_000;

const fill = (database: TestDatabase) =>
  database.client.query(`
    CREATE TABLE parents (id bigserial PRIMARY KEY, payload text);
    CREATE TABLE children (id bigserial PRIMARY KEY, parent bigint REFERENCES parents);
    CREATE SCHEMA "odd ""schema""";
    CREATE TABLE "odd ""schema"""."table; --" (id int);
    INSERT INTO "odd ""schema"""."table; --" VALUES (1), (2);
    CREATE TABLE parts (id int) PARTITION BY RANGE (id);
    CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10);
    INSERT INTO parts SELECT generate_series(0, 9);
    INSERT INTO parents (payload) SELECT repeat(md5(i::text), 3) FROM generate_series(1, ${ROWS}) i;
    INSERT INTO children (parent) SELECT id FROM parents`);

/** Commits a parent and its child, again and again, until it is stopped; returns how many it was. */
async function writing(database: TestDatabase): Promise<{ stop(): Promise<number> }> {
  const writer = await database.connect();
  let pairs = 0;
  let over = false;
  const run = (async () => {
    for (; !over; pairs++)
      await writer.query(`WITH parent AS (INSERT INTO parents (payload) VALUES ('x') RETURNING id)
        INSERT INTO children (parent) SELECT id FROM parent`);
  })();
  return {
    async stop() {
      over = true;
      await run;
      return pairs;
    },
  };
}

test('a database that is written to is restored with exactly the rows of one moment', async () => {
  await using database = await emptyDatabase();
  await using scratch = await emptyDatabase();
  await using place = await backupPlace({ databases: { agents: database.url } });
  await fill(database);
  const writer = await writing(database);
  const stages = new Set<string>();
  const onProgress = ({ stage }: { stage: string }) => stages.add(stage);
  const { address, content } = await backUp(place, 'database', 'agents', { onProgress });
  const pairs = await writer.stop();

  const rows = content.rows!;
  assert.equal(rows['public.parents'], rows['public.children']);
  assert.ok(rows['public.parents']! >= ROWS && rows['public.parents']! < ROWS + pairs);
  assert.equal(rows['odd "schema".table; --'], 2);
  assert.equal(rows['public.parts_low'], 10);
  assert.deepEqual([...stages], ['reading', 'verifying']);
  assert.ok(content.entries! > 5);
  await restoreDatabase({ ...place, address, content }, { url: scratch.url }, never);
  assert.deepEqual(await countRows(scratch.url, never), rows);
});

test('an encrypted backup is restored with its key only, and the key is written nowhere', async () => {
  const [identity, another] = [await generateIdentity(), await generateIdentity()];
  const recipients = [await identityToRecipient(identity)];
  await using database = await emptyDatabase();
  await using scratch = await emptyDatabase();
  await database.client.query(`CREATE TABLE secrets AS SELECT 'attack at dawn' AS text`);
  const databases = { agents: database.url };
  await using place = await backupPlace({ databases, recipients, compression: 'none' });
  const { address, content } = await backUp(place, 'database', 'agents');

  const directory = path.join(place.directory, 'backups', address.type, address.source, address.id);
  for (const name of ['data', 'globals', 'manifest.json']) {
    const bytes = await readFile(path.join(directory, name), 'latin1');
    for (const secret of ['attack at dawn', identity, 'AGE-SECRET-KEY'])
      assert.ok(!bytes.includes(secret), `${secret} in ${name}`);
  }
  const restore = (key?: string) => {
    const settings = { ...place.settings, ...(key && { identity: key }) };
    const order = { destination: place.destination, settings, address, content };
    return restoreDatabase(order, { url: scratch.url, withoutOwners: true }, never);
  };
  await assert.rejects(restore(), { code: 'backup_refused', message: /no identity is configured/ });
  await assert.rejects(restore(another), { code: 'backup_refused', message: /none of those/ });
  await assert.rejects(
    restore('AGE-SECRET-KEY-1WRONG'),
    (error: Error) => /no age identity/.test(error.message) && !error.message.includes('WRONG'),
  );
  assert.deepEqual(await countRows(scratch.url, never), {});
  await restore(identity);
  assert.deepEqual(await countRows(scratch.url, never), { 'public.secrets': 1 });
});

test('a database that is not empty is only overwritten if that is asked for; the roles are a file of SQL', async () => {
  await using database = await emptyDatabase();
  await using target = await emptyDatabase();
  await using place = await backupPlace({ databases: { agents: database.url }, compression: 'gzip' });
  await database.client.query('CREATE TABLE numbers AS SELECT generate_series(1, 3) AS number');
  await target.client.query('CREATE TABLE numbers AS SELECT 1 AS number');
  const { address, content } = await backUp(place, 'database', 'agents');
  const order = { ...place, address, content };
  await assert.rejects(restoreDatabase(order, { url: target.url }, never), {
    code: 'backup_refused',
    message: /not empty/,
  });
  assert.deepEqual(await countRows(target.url, never), { 'public.numbers': 1 });
  await restoreDatabase(order, { url: target.url, overwrite: true }, never);
  assert.deepEqual(await countRows(target.url, never), { 'public.numbers': 3 });

  const file = path.join(place.directory, 'roles.sql');
  await restoreFile(order, { name: 'globals', file }, never);
  const sql = await readFile(file, 'utf8');
  assert.match(sql, /CREATE ROLE somaagent/);
  assert.doesNotMatch(sql, /PASSWORD/);
  await assert.rejects(restoreFile(order, { name: 'globals', file }, never), { message: /is there already/ });
});

test('a role that may not read the roles makes a backup without them, and that is told', async () => {
  const role = `no_globals_${process.pid}`;
  await using database = await emptyDatabase();
  const url = Object.assign(new URL(database.url), { username: role, password: role }).href;
  await using place = await backupPlace({ databases: { agents: url } });
  await database.client.query(`CREATE ROLE ${role} LOGIN PASSWORD '${role}'`);
  try {
    await database.client.query('REVOKE SELECT ON pg_auth_members FROM PUBLIC');
    await database.client.query(`CREATE TABLE a AS SELECT 1 AS id; GRANT SELECT ON a TO ${role}`);
    const { content } = await backUp(place, 'database', 'agents');
    assert.deepEqual(
      content.files.map(({ name }) => name),
      ['data'],
    );
    assert.match(
      content.notes.join(),
      /^No roles and tablespaces: .*permission denied for table pg_auth_members/,
    );
  } finally {
    await database.client.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  }
});

test('a restore that fails in the middle leaves the target as it was', async () => {
  await using database = await emptyDatabase();
  await using target = await emptyDatabase();
  await using place = await backupPlace({ databases: { agents: database.url } });
  await database.client.query(
    'CREATE TABLE a AS SELECT 1 AS id; CREATE TABLE b AS SELECT generate_series(1, 200000) AS id',
  );
  await database.client.query('CREATE ROLE gone_role_of_a_test');
  await database.client.query('ALTER TABLE b OWNER TO gone_role_of_a_test');
  const { address, content } = await backUp(place, 'database', 'agents').finally(() =>
    database.client.query(
      'REASSIGN OWNED BY gone_role_of_a_test TO CURRENT_USER; DROP ROLE gone_role_of_a_test',
    ),
  );
  const order = { ...place, address, content };
  await assert.rejects(restoreDatabase(order, { url: target.url }, never), {
    code: 'backup_refused',
    message: /role "gone_role_of_a_test" does not exist/,
  });
  assert.deepEqual(await countRows(target.url, never), {});
  await restoreDatabase(order, { url: target.url, withoutOwners: true }, never);
  assert.deepEqual(await countRows(target.url, never), { 'public.a': 1, 'public.b': 200_000 });
});
