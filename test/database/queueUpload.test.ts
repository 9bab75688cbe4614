import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { after, before, suite, test } from 'node:test';
import { queueUpload, type UploadToQueue } from '../../src/queueUpload.ts';
import { outboxDatabase } from '../support/database.ts';
import { sha256 } from '../support/uploads.ts';

let spoolDir: string;
before(async () => {
  spoolDir = await mkdtemp(path.join(tmpdir(), 'spool-'));
});
after(() => rm(spoolDir, { recursive: true }));

suite('queueUpload', () => {
  test('up to 700,000 bytes travel in the message, once for the same file', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    for (const size of [0, 1, 700_000]) {
      const bytes = randomBytes(size);
      const upload: UploadToQueue = { filename: `ü ${size}`, contentType: 'a/b', metadata: { a: 1 }, bytes };
      const queued = await queueUpload(client, upload);
      const hash = sha256(bytes);
      const idempotencyKey = `upload:ü ${size}:${hash.slice(0, 16)}`;
      assert.deepEqual(queued, { idempotencyKey, sha256: hash, size, isNew: true });
      assert.equal((await queueUpload(client, { ...upload, bytes: Readable.from([bytes]) })).isNew, false);
      const { rows } = await client.query('SELECT * FROM core_outboxmessage WHERE idempotency_key = $1', [
        idempotencyKey,
      ]);
      assert.equal(rows.length, 1);
      const { topic, partition_key, payload, headers } = rows[0];
      assert.deepEqual([topic, partition_key], ['upload.retry', `ü ${size}`]);
      assert.deepEqual(headers, { operation: 'upload', retry: 'true' });
      assert.deepEqual(payload, {
        filename: `ü ${size}`,
        content_type: 'a/b',
        metadata: { a: 1 },
        size,
        data_b64: bytes.toString('base64'),
        data_ref: null,
      });
    }
  });

  test('more go through the spool: from memory, a file or a stream, under one name of their own', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const bytes = randomBytes(700_001);
    const file = path.join(spoolDir, 'original');
    await writeFile(file, bytes);
    const pieces = [bytes.subarray(0, 10), bytes.subarray(10)];
    const names = new Set<string>();
    for (const each of [bytes, { file }, Readable.from(pieces)]) {
      const upload = { filename: 'x'.repeat(300), bytes: each };
      const { idempotencyKey, size } = await queueUpload(client, upload, { spoolDir });
      assert.equal(size, 700_001);
      const { rows } = await client.query(
        'SELECT payload, partition_key FROM core_outboxmessage WHERE idempotency_key = $1',
        [idempotencyKey],
      );
      assert.deepEqual([rows[0].payload.data_b64, rows[0].partition_key], [null, null]);
      names.add(rows[0].payload.data_ref.slice('spool:'.length));
    }
    assert.equal(names.size, 1);
    const [name] = [...names] as [string];
    assert.match(name, /^[0-9a-f]{64}$/);
    assert.deepEqual(await readFile(path.join(spoolDir, name)), bytes);
    const { mode } = await stat(path.join(spoolDir, name));
    assert.equal(mode & 0o777, 0o640, 'the workers may read it by their group');
    assert.deepEqual((await readdir(spoolDir)).sort(), ['original', name].sort());
    const other = await queueUpload(client, { filename: 'other', bytes }, { spoolDir });
    assert.equal((await readdir(spoolDir)).length, 3, other.idempotencyKey);
  });

  test('much metadata leaves no room beside it, and travels with a reference', async () => {
    await using database = await outboxDatabase();
    const upload = { filename: 'a', metadata: { text: 'x'.repeat(30_000) }, bytes: Buffer.from('abc') };
    await assert.rejects(queueUpload(database.client, upload), {
      code: 'invalid_input',
      message: /spoolDir/,
    });
    await queueUpload(database.client, upload, { spoolDir });
    const { rows } = await database.client.query('SELECT payload FROM core_outboxmessage');
    assert.match(rows[0].payload.data_ref, /^spool:/);
  });

  test('it is queued if and only if the transaction commits, which stays usable after a refusal', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    await client.query('BEGIN');
    await queueUpload(client, { filename: 'a', bytes: Buffer.from('abc') });
    const bad = { filename: '', contentType: 'a\0', metadata: [], bytes: 'text' } as unknown as UploadToQueue;
    await assert.rejects(queueUpload(client, bad), {
      code: 'invalid_message',
      message: /filename must.*contentType must.*metadata must.*bytes must/,
    });
    await client.query('ROLLBACK');
    const { rowCount } = await client.query('SELECT FROM core_outboxmessage');
    assert.equal(rowCount, 0);
  });

  test('a stream that breaks, a file that is not there, a spool that is away: nothing is left behind', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const before = await readdir(spoolDir);
    async function* broken() {
      yield randomBytes(800_000);
      throw new Error('the caller’s own');
    }
    const queue = (bytes: UploadToQueue['bytes'], dir = spoolDir) =>
      queueUpload(client, { filename: 'a', bytes }, { spoolDir: dir });
    await assert.rejects(queue(Readable.from(broken())), { message: 'the caller’s own' });
    await assert.rejects(queue({ file: path.join(spoolDir, 'none') }), { code: 'ENOENT' });
    await assert.rejects(queue(randomBytes(800_000), path.join(spoolDir, 'gone')), {
      code: 'storage_unavailable',
      message: /the spool: ENOENT/,
    });
    assert.deepEqual(await readdir(spoolDir), before);
    const { rowCount } = await client.query('SELECT FROM core_outboxmessage');
    assert.equal(rowCount, 0);
  });
});
