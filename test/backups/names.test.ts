import assert from 'node:assert/strict';
import { mkdir, readdir, symlink } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import pg from 'pg';
import { addressPath, ofSystem, sourceSlug } from '../../src/backups/names.ts';
import { makeDestination, openDestination, openSource, requireApart } from '../../src/backups/open.ts';
import { connectionEnv } from '../../src/backups/programs.ts';
import type { BackupType } from '../../src/domain/backupFacts.ts';
import { backupTaskFaults } from '../../src/domain/backupInput.ts';
import { backupPlace } from '../support/backups.ts';

const smuggled = [
  '--file=/tmp/x',
  '-f/tmp/x',
  'agents; touch /tmp/x',
  '$(touch /tmp/x)',
  'agents\n--file=/tmp/x',
  'agents\u0000',
  "dbname='postgres' options='-c x=y'",
  'postgresql://elsewhere/postgres',
  '__proto__',
  'constructor',
  '',
  'x'.repeat(2000),
];

test('a source is refused unless it is one of those that are configured', async () => {
  await using place = await backupPlace({ databases: { agents: 'postgresql://x/agents' } });
  for (const type of ['database', 'redis', 'files', 'storage'] satisfies BackupType[])
    for (const name of smuggled)
      await assert.rejects(
        openSource(type, name, place.settings),
        { code: 'backup_refused' },
        `${type} ${name}`,
      );
  const source = await openSource('database', 'agents', place.settings);
  assert.equal(source.name, 'agents');
});

test('a destination is refused unless it is an allowed directory or bucket', async () => {
  await using place = await backupPlace();
  const backups = path.join(place.directory, 'backups');
  await mkdir(path.join(place.directory, 'outside'));
  await symlink(path.join(place.directory, 'outside'), path.join(backups, 'link'));
  const bucket = place.settings.destinations.s3!.buckets[0];
  const refused = [
    ...smuggled,
    'file:///etc',
    `file://${place.directory}`,
    `file://${backups}-beside`,
    `file://${backups}/link`,
    `file://${backups}/link/below`,
    `file://${backups}/%2e%2e/outside`,
    `file://${backups}/a%2Fb`,
    `file://${backups}?x=y`,
    'file://host/share',
    's3://another-bucket/x',
    's3://',
    `s3://${bucket}/a%2F..%2F..%2Fb`,
    `s3://${bucket}/a%0ab`,
    `s3://key:secret@${bucket}/x`,
    'https://example.com/x',
  ];
  for (const url of refused) {
    const opening = openDestination(url, place.settings);
    await assert.rejects(opening, { code: 'backup_refused' }, url);
  }
  assert.deepEqual(await readdir(path.join(place.directory, 'outside')), []);
  // A URL's own dots are gone before anybody sees them.
  assert.equal((await openDestination(`s3://${bucket}/a/%2E%2E/b`, place.settings)).url, `s3://${bucket}/b`);
  const nested = await openDestination(`file://${backups}/new/nested%20one/`, place.settings);
  assert.equal(nested.url, `file://${backups}/new/nested%20one`);
  assert.equal((await openDestination(`s3://${bucket}/a/b/`, place.settings)).url, `s3://${bucket}/a/b`);
});

test('a destination is the same one when its URL is opened again', async () => {
  await using place = await backupPlace();
  const bucket = place.settings.destinations.s3!.buckets[0];
  const backups = path.join(place.directory, 'backups');
  for (const below of ['', '/plain', '/a%2541', '/a%3Fb%23c', '/a%20b', '/%C3%BC%40x', '/a%2525', "/it's"])
    for (const url of [`s3://${bucket}${below}`, `file://${backups}${below}`]) {
      const { url: opened } = await openDestination(url, place.settings);
      if (url.startsWith('s3:')) assert.equal(opened, url);
      assert.equal((await openDestination(opened, place.settings)).url, opened);
      const faults = backupTaskFaults({ type: 'redis', source: 'redis', destination: opened });
      assert.deepEqual(faults, []);
    }
});

test('the own directory is made where only it is missing, and a link in its place is not followed', async () => {
  await using place = await backupPlace();
  const fresh = path.join(place.directory, 'fresh', 'volume');
  const settings = { ...place.settings, destinations: { roots: [fresh] } };
  const isMissing = { code: 'backup_refused', message: `${fresh} is not there` };
  await assert.rejects(openDestination(`file://${fresh}/below`, settings), isMissing);
  await assert.rejects(makeDestination(`file://${fresh}`), 'above it something is missing, a mount perhaps');
  await mkdir(path.dirname(fresh));
  for (const _ of ['made', 'there']) await makeDestination(`file://${fresh}`);
  const destination = await openDestination(`file://${fresh}/below`, settings);
  assert.equal(destination.url, `file://${fresh}/below`);
  assert.deepEqual(await readdir(fresh), ['below']);
  const dangling = path.join(place.directory, 'dangling');
  await symlink(path.join(place.directory, 'elsewhere'), dangling);
  const opening = openDestination(`file://${dangling}`, { ...settings, destinations: { roots: [dangling] } });
  await assert.rejects(opening, { code: 'backup_refused' });
  assert.ok(!(await readdir(place.directory)).includes('elsewhere'));
});

test('different names have different slugs, and all are safe as parts of a path', () => {
  const names = [
    ...smuggled,
    'agents',
    'Agents',
    '/var/lib/agents',
    '/var/lib-agents',
    '..',
    'ünï',
    'a'.repeat(300),
  ];
  const slugs = names.map(sourceSlug);
  assert.equal(new Set(slugs).size, names.length);
  for (const slug of slugs) assert.match(slug, /^[a-z0-9][a-z0-9._-]{0,90}$/);
  assert.equal(sourceSlug('agents'), 'agents');
  const address = { type: 'files', source: 'a', id: 'b' } as const;
  for (const part of ['..', '../x', 'a/b', '', '-x', 'a\0']) {
    assert.throws(() => addressPath({ ...address, source: part }), { code: 'backup_refused' });
    assert.throws(() => addressPath({ ...address, id: part }), { code: 'backup_refused' });
  }
});

test('what pg_dump connects to is in its environment, decoded', () => {
  const env = connectionEnv('postgresql://us%40er:p%3A%24(x)@[::1]:5433/na%27me?options=-c%20a.b%3D100%25');
  assert.deepEqual(env, {
    PGCONNECT_TIMEOUT: '10',
    PGAPPNAME: 'somaagent-orchestrator',
    PGHOST: '::1',
    PGPORT: '5433',
    PGUSER: 'us@er',
    PGPASSWORD: 'p:$(x)',
    PGDATABASE: "na'me",
    PGOPTIONS: '-c a.b=100%',
  });
  const other = connectionEnv('postgresql://one@host/core?host=/run/pg&user=an%25other');
  assert.deepEqual([other.PGHOST, other.PGUSER], ['/run/pg', 'an%other']);
});

test('pg_dump is encrypted wherever the connections of this service are', () => {
  const modeOf = (parameters: string) => connectionEnv(`postgresql://host/core?${parameters}`).PGSSLMODE;
  for (const mode of ['disable', 'require', 'verify-ca', 'verify-full'])
    assert.equal(modeOf(`sslmode=${mode}`), mode);
  const asked = ['ssl=true', 'ssl=1', 'ssl=no-verify', 'ssl=0', 'ssl=false', 'sslmode=no-verify'];
  const prefer = 'uselibpqcompat=true&sslmode=prefer';
  for (const parameters of [...asked, prefer, 'sslcert=/dev/null', 'sslnegotiation=direct', 'keepalives=1']) {
    const isEncrypted = Boolean(new pg.Client(`postgresql://host/core?${parameters}`).ssl);
    assert.equal(modeOf(parameters), isEncrypted ? 'require' : undefined, parameters);
  }
});

test('what a file system says is final only where asking again changes nothing', () => {
  for (const [code, expected] of [
    ['ENOSPC', 'backup_failed'],
    ['EIO', 'backup_failed'],
    ['ESTALE', 'backup_failed'],
    ['EACCES', 'backup_refused'],
  ] as const)
    assert.equal(ofSystem('/x', Object.assign(new Error(code), { code })).code, expected);
});

test('a destination in what is backed up, or around it, is refused', async () => {
  await using place = await backupPlace();
  const [bucket] = place.settings.destinations.s3!.buckets;
  const tree = path.join(place.directory, 'backups', 'tree');
  const spool = path.join(place.directory, 'backups', 'spool');
  const settings = {
    ...place.settings,
    tiers: { ...place.settings.tiers, filesystem: path.join(place.directory, 'backups', 'tier') },
    destinations: { ...place.settings.destinations, apart: [spool] },
  };
  await symlink(tree, path.join(place.directory, 'sources', 'link'));
  const check = async (type: BackupType, source: string, url: string) =>
    requireApart({ type, source }, await openDestination(url, settings), settings);
  const inside = { code: 'backup_refused', message: /lies in .*, or around it/ };
  for (const url of [`file://${tree}`, `file://${tree}/below`]) {
    await assert.rejects(check('files', tree, url), inside);
    await assert.rejects(check('files', path.join(place.directory, 'sources', 'link'), url), inside);
    await check('files', `${tree}-beside`, url);
    await check('database', 'agents', url);
  }
  await assert.rejects(check('files', `${tree}/below`, `file://${tree}`), inside);
  for (const own of ['tier', 'spool'])
    await assert.rejects(check('database', 'agents', `file://${place.directory}/backups/${own}/x`), inside);
  await assert.rejects(check('database', 'agents', place.destination.url), inside, 'around both');
  for (const source of ['s3', 's3/', 's3/back', 's3/backups/2026/'])
    await assert.rejects(check('storage', source, `s3://${bucket}/backups`), inside, source);
  await check('storage', 's3/uploads/', `s3://${bucket}/backups`);
});
