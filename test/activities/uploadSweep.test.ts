import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, realpath, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { suite, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import {
  createUploadSweepActivities,
  type UploadSweepDependencies,
} from '../../src/activities/uploadSweep.ts';
import { writeConsumedLetters } from '../../src/database/deadLetters.ts';
import { openPool } from '../../src/database/postgres.ts';
import { objectKey } from '../../src/database/uploadOutcomes.ts';
import { NOTHING_SWEPT, type Sweep } from '../../src/domain/uploadSweep.ts';
import type { UploadRowState } from '../../src/domain/uploads.ts';
import { FilesystemTier } from '../../src/storage/filesystem.ts';
import { S3Tier } from '../../src/storage/s3.ts';
import { freePort } from '../../stack/ports.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { insertRows } from '../support/outbox.ts';

const HOUR = 3_600_000;

/** A database, a spool, and the janitor on both. */
async function janitor() {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const pool = openPool(database.url);
  stack.defer(() => pool.end());
  const directory = await realpath(await mkdtemp(path.join(tmpdir(), 'sweep-')));
  stack.defer(() => rm(directory, { recursive: true }));
  const spoolDir = path.join(directory, 'spool');
  await mkdir(spoolDir);
  const stop = new AbortController();
  const dependencies = { databaseUrl: database.url, pool, tiers: [], spoolDir, stop: stop.signal };
  return {
    database,
    directory,
    spoolDir,
    stop,
    sweep: (options: { dryRun?: boolean } & Partial<UploadSweepDependencies> = {}): Promise<Sweep> => {
      const { dryRun = false, ...others } = options;
      const { sweepUploads } = createUploadSweepActivities({ ...dependencies, ...others });
      const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
      return environment.run(sweepUploads, { dryRun, sweep: NOTHING_SWEPT });
    },
    /** A file of the spool that was written so long ago. */
    async spooled(name: string, hours: number): Promise<void> {
      const file = path.join(spoolDir, name);
      await mkdir(path.dirname(file), { recursive: true });
      await writeFile(file, name);
      const at = new Date(Date.now() - hours * HOUR);
      await utimes(file, at, at);
    },
    files: async () => (await readdir(spoolDir)).sort(),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

interface Row {
  key: string;
  ref?: string | null;
  state: UploadRowState;
  tier?: string | null;
  touched?: string[];
  hours?: number;
  /** Since it was stored. */
  storedHours?: number;
}

async function insertUpload(
  { client }: TestDatabase,
  { key, ref = null, state, tier = null, touched = [], hours = 0, storedHours = 0 }: Row,
): Promise<void> {
  const isStored = tier !== null;
  await client.query(
    `INSERT INTO orchestrator.upload (idempotency_key, filename, metadata, size, data, data_ref, state, tier, location,
       sha256, stored_at, touched_tiers, updated_at)
     VALUES ($1, 'f', '{}', 1, CASE WHEN $2::text IS NULL THEN '\\x00'::bytea END, $2, $3, $4, $5, $5, $6, $7,
       now() - make_interval(hours => $8))`,
    [
      key,
      ref,
      state,
      tier,
      isStored ? 'x' : null,
      isStored ? new Date(Date.now() - storedHours * HOUR) : null,
      touched,
      hours,
    ],
  );
}

const stored = { state: 'promoted', tier: 's3' } as const;

suite('a file of the spool', () => {
  test('goes a day after its upload has its bytes elsewhere, or after a week if no upload knows it', async () => {
    await using its = await janitor();
    await its.spooled('done-old', 25);
    await its.spooled('done-young', 23);
    await its.spooled('stored-below', 25);
    await its.spooled('unknown-old', 7 * 24 + 1);
    await its.spooled('unknown-young', 7 * 24 - 1);
    await its.spooled('below/a-directory', 1_000);
    await symlink(path.join(its.spoolDir, 'unknown-young'), path.join(its.spoolDir, 'link'));
    await insertUpload(its.database, { key: '1', ref: 'spool:done-old', ...stored });
    await insertUpload(its.database, { key: '2', ref: 'spool:done-young', ...stored });
    await insertUpload(its.database, {
      key: '3',
      ref: 'spool:stored-below',
      state: 'promoting',
      tier: 'filesystem',
    });
    const counted = { ...NOTHING_SWEPT, swept: { ...NOTHING_SWEPT.swept, spool_files: 3 } };
    assert.deepEqual(await its.sweep({ dryRun: true }), counted);
    assert.equal((await its.files()).length, 7, 'a dry run removes nothing');
    assert.deepEqual(await its.sweep(), counted);
    assert.deepEqual(await its.files(), ['below', 'done-young', 'link', 'unknown-young']);
    assert.deepEqual(await its.sweep(), NOTHING_SWEPT);
  });

  test('stays while an upload needs it, also one that failed or was cancelled, also beside one that is done', async () => {
    await using its = await janitor();
    for (const state of ['waiting', 'failed', 'cancelled'] as const) {
      await its.spooled(state, 1_000);
      await insertUpload(its.database, { key: `done ${state}`, ref: `spool:${state}`, ...stored });
      await insertUpload(its.database, { key: state, ref: `spool:${state}`, state });
    }
    // Redis may lose what it said it has.
    await its.spooled('below', 1_000);
    await insertUpload(its.database, { key: 'below', ref: 'spool:below', state: 'promoting', tier: 'redis' });
    await its.spooled('below by path', 1_000);
    const { href } = pathToFileURL(path.join(its.spoolDir, 'below by path'));
    await insertUpload(its.database, { key: 'by path', ref: href, state: 'stored', tier: 'redis' });
    assert.deepEqual(await its.sweep(), NOTHING_SWEPT);
    assert.deepEqual(await its.files(), ['below', 'below by path', 'cancelled', 'failed', 'waiting']);
  });

  test('that was written after its upload was stored is one that no upload knows', async () => {
    await using its = await janitor();
    for (const [name, hours] of Object.entries({ before: 31, after: 29, 'long after': 8 * 24 })) {
      await its.spooled(name, hours);
      const storedHours = name === 'long after' ? 9 * 24 : 30;
      await insertUpload(its.database, { key: name, ref: `spool:${name}`, ...stored, storedHours });
    }
    assert.equal((await its.sweep()).swept.spool_files, 2);
    assert.deepEqual(await its.files(), ['after']);
  });

  test('goes though a reference is one that no file system takes', async () => {
    await using its = await janitor();
    await its.spooled('unknown', 1_000);
    await its.spooled('needed', 1_000);
    await symlink('circle', path.join(its.directory, 'circle'));
    const refs = [
      'file:///a%00b',
      `file:///${'x'.repeat(300)}`,
      pathToFileURL(`${its.directory}/circle`).href,
    ];
    for (const ref of [...refs, pathToFileURL(path.join(its.spoolDir, 'needed')).href])
      await insertUpload(its.database, { key: ref.slice(0, 255), ref, state: 'failed' });
    const { swept, unreachable } = await its.sweep();
    assert.deepEqual([swept.spool_files, unreachable], [1, {}]);
    assert.deepEqual(await its.files(), ['needed']);
  });

  test('stays while a message that names it was refused as a letter, or is on its way by a path', async () => {
    await using its = await janitor();
    for (const name of ['letter', 'by path', 'unknown']) await its.spooled(name, 1_000);
    const record = (value: string, offset: string) => ({
      record: {
        topic: 'upload.retry',
        partition: 0,
        offset,
        timestamp: 0,
        key: null,
        value: Buffer.from(value),
        headers: {},
      },
      fault: 'filename must be a text',
    });
    const values = [
      '{"data_ref":"spool:letter"}',
      '{"data_ref":7}',
      '["spool:unknown"]',
      '{',
      '{"data_ref":"\\u0000"}',
    ];
    const letters = values.map((value, index) => record(value, String(index)));
    assert.equal(await writeConsumedLetters(its.database.client, letters), values.length);
    const { href } = pathToFileURL(path.join(its.spoolDir, 'by path'));
    await insertRows(its.database.client, [{ topic: 'upload.retry', payload: { data_ref: href } }]);
    assert.equal((await its.sweep()).swept.spool_files, 1);
    assert.deepEqual(await its.files(), ['by path', 'letter']);
  });

  test('stays while the message that names it is in the outbox, or an unresolved dead letter, for however long', async () => {
    await using its = await janitor();
    const { client } = its.database;
    for (const name of ['pending', 'failed', 'published', 'letter', 'resolved'])
      await its.spooled(name, 1_000);
    const row = (name: string) => ({ topic: 'upload.retry', payload: { data_ref: `spool:${name}` } });
    const ids = await insertRows(client, ['pending', 'failed', 'published'].map(row));
    for (const status of ['failed', 'published'])
      await client.query('UPDATE core_outboxmessage SET status = $1 WHERE id = $2', [
        status,
        ids[status === 'failed' ? 1 : 2],
      ]);
    await client.query(
      `INSERT INTO core_deadlettermessage (id, original_topic, idempotency_key, payload, headers, error_message, attempts,
         created_at, resolved)
       SELECT gen_random_uuid(), 'upload.retry', name, jsonb_build_object('data_ref', 'spool:' || name), '{}', 'x', 5,
         now(), name = 'resolved' FROM unnest(ARRAY['letter', 'resolved']) AS name`,
    );
    assert.equal((await its.sweep()).swept.spool_files, 2);
    assert.deepEqual(await its.files(), ['failed', 'letter', 'pending']);
  });

  test('stays while an upload needs it by its path, however that is written', async () => {
    await using its = await janitor();
    const names = ['a plain', 'b linked', 'c odd', 'd dots', 'e%41', 'ü nicode'];
    for (const name of names) await its.spooled(name, 1_000);
    await symlink(its.spoolDir, path.join(its.directory, 'other'));
    const url = (name: string) => pathToFileURL(path.join(its.spoolDir, name)).href;
    const refs = [
      url('a plain'),
      pathToFileURL(path.join(its.directory, 'other', 'b linked')).href,
      ` FILE:${url('c odd').slice('file:'.length)}`,
      `file://${its.spoolDir}/x/../d dots`,
      url('e%41'),
      url('ü nicode'),
    ];
    for (const [index, ref] of refs.entries())
      await insertUpload(its.database, { key: String(index), ref, state: 'waiting' });
    assert.deepEqual(await its.sweep(), NOTHING_SWEPT);
    assert.deepEqual((await its.files()).length, names.length);
    await its.database.client.query('DELETE FROM orchestrator.upload');
    assert.equal((await its.sweep()).swept.spool_files, names.length);
  });

  test('more of them than one portion: each is counted once', async () => {
    await using its = await janitor();
    await Promise.all(Array.from({ length: 1_203 }, (_, number) => its.spooled(`f${number}`, 1_000)));
    await insertUpload(its.database, { key: 'k', ref: 'spool:f700', state: 'waiting' });
    assert.equal((await its.sweep()).swept.spool_files, 1_202);
    assert.deepEqual(await its.files(), ['f700']);
  });
});

suite('what is away', () => {
  test('the spool: is told, and nothing fails', async () => {
    await using its = await janitor();
    await rm(its.spoolDir, { recursive: true });
    const { unreachable } = await its.sweep();
    assert.match(unreachable.spool!, /ENOENT/);
  });

  test('Postgres: nothing goes', async () => {
    await using its = await janitor();
    await its.spooled('unknown', 1_000);
    await its.database.client.query('ALTER TABLE orchestrator.upload RENAME TO upload_gone');
    await assert.rejects(its.sweep(), { type: 'postgres_refused' });
    assert.deepEqual(await its.files(), ['unknown']);
  });
});

suite('a tier', () => {
  const key = 'ab'.padEnd(64, '0');

  /** The janitor with a tier of files, whose directory has what a store leaves that was killed so many hours ago. */
  async function withTier(...partials: number[]) {
    const its = await janitor();
    const uploads = path.join(its.directory, 'uploads');
    await mkdir(path.join(uploads, 'ab'), { recursive: true });
    for (const [index, hours] of partials.entries()) {
      const file = path.join(uploads, 'ab', `.${key}.${index}f.partial`);
      await writeFile(file, 'half');
      const at = new Date(Date.now() - hours * HOUR);
      await utimes(file, at, at);
    }
    const tier = new FilesystemTier(its.directory);
    const copies = async () => (await readdir(path.join(uploads, 'ab'))).sort();
    return { its, tier, copies, [Symbol.asyncDispose]: () => its[Symbol.asyncDispose]() };
  }

  test('loses what was begun a day ago and never finished', async () => {
    await using one = await withTier(25, 23, 1_000, 0);
    const { its, tier } = one;
    assert.equal((await its.sweep({ tiers: [tier], dryRun: true })).swept.stranded, 2);
    assert.equal((await one.copies()).length, 4);
    assert.equal((await its.sweep({ tiers: [tier] })).swept.stranded, 2);
    assert.deepEqual(await one.copies(), [`.${key}.1f.partial`, `.${key}.3f.partial`]);
  });

  test('that is away is told, and the others are swept', async () => {
    await using one = await withTier(25);
    const { its, tier } = one;
    await its.spooled('unknown', 1_000);
    const endpoint = `http://127.0.0.1:${await freePort()}`;
    const s3 = { endpoint, bucket: 'b', accessKeyId: 'k', secretAccessKey: 's' };
    const { swept, unreachable } = await its.sweep({ tiers: [new S3Tier(s3), tier] });
    assert.deepEqual(swept, { stranded: 1, leftovers: 0, spool_files: 1 });
    assert.deepEqual(Object.keys(unreachable), ['s3']);
    assert.match(unreachable.s3!, /^storage_unavailable: S3 bucket/);
  });

  test('loses copies below the one that a row names, and what was cancelled a month ago; no other', async () => {
    await using one = await withTier();
    const { its, tier } = one;
    const signal = new AbortController().signal;
    const store = async (idempotencyKey: string) => {
      const facts = {
        size: 1,
        sha256: createHash('sha256').update('x').digest('hex'),
        filename: 'f',
        contentType: null,
      };
      await tier.store(
        objectKey(idempotencyKey),
        async () => Readable.from([Buffer.from('x')]),
        facts,
        signal,
      );
    };
    const rows: (Row & { stays: boolean })[] = [
      { key: 'promoted', state: 'promoted', tier: 's3', hours: 25, stays: false },
      { key: 'just now', state: 'promoted', tier: 's3', hours: 23, stays: true },
      { key: 'on its way', state: 'promoting', tier: 'filesystem', hours: 1_000, stays: true },
      { key: 'its own', state: 'stored', tier: 'filesystem', hours: 1_000, stays: true },
      { key: 'cancelled', state: 'cancelled', hours: 31 * 24, stays: false },
      { key: 'just cancelled', state: 'cancelled', hours: 29 * 24, stays: true },
      { key: 'waiting', state: 'waiting', hours: 1_000, stays: true },
      { key: 'failed', state: 'failed', hours: 1_000, stays: true },
    ];
    for (const { stays, ...row } of rows) {
      await store(row.key);
      await insertUpload(its.database, { ...row, touched: ['s3', 'filesystem'] });
    }
    const there = async () => {
      const found = await Promise.all(
        rows.map(({ key }) => tier.read(objectKey(key), signal).catch(() => {})),
      );
      return rows.filter((_, index) => found[index]).map(({ key }) => key);
    };
    assert.equal((await its.sweep({ tiers: [tier], dryRun: true })).swept.leftovers, 2);
    assert.equal((await there()).length, rows.length);
    assert.equal((await its.sweep({ tiers: [tier] })).swept.leftovers, 2);
    assert.deepEqual(
      await there(),
      rows.filter(({ stays }) => stays).map(({ key }) => key),
    );
    assert.equal((await its.sweep({ tiers: [tier] })).swept.leftovers, 0, 'the rows say that they are gone');
  });
});
