import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { countOpenUploads, openUploads } from '../../src/database/openUploads.ts';
import {
  markCancelled,
  markFailed,
  markPromoted,
  markStored,
  markTouched,
  type VerifiedCopy,
} from '../../src/database/uploadOutcomes.ts';
import {
  KEY_OF_OTHER_BYTES,
  NO_OWN_BYTES,
  readUpload,
  takeByReference,
  wakeUpload,
} from '../../src/database/uploads.ts';
import type { TierName } from '../../src/domain/uploads.ts';
import { outboxDatabase } from '../support/database.ts';
import { askedUpload, letters, receipts, sha256, take, uploadRow } from '../support/uploads.ts';

const copy = (tier: TierName, promote = false): VerifiedCopy => ({
  tier,
  location: `${tier}://x`,
  durability: 'safe',
  promote,
});
const refusal = { code: 'storage_refused', reason: 's3: forbidden' };

suite('taking uploads', () => {
  test('a key is taken once, with its bytes; the same again is nothing new, other bytes are refused', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const upload = askedUpload('abc', { metadata: { a: 1 } });
    const other = { ...upload, dataBase64: Buffer.from('abd').toString('base64') };
    const byReference = { ...upload, dataBase64: null, dataRef: 'spool:x' };
    assert.deepEqual(await take(client, [upload, upload, other]), [
      { upload: other, fault: KEY_OF_OTHER_BYTES },
    ]);
    assert.deepEqual(await take(client, [upload]), []);
    assert.deepEqual(await take(client, [byReference]), [{ upload: byReference, fault: KEY_OF_OTHER_BYTES }]);
    const row = await uploadRow(client, upload.idempotencyKey);
    assert.deepEqual([row.state, row.data?.toString(), row.sha256], ['waiting', 'abc', sha256('abc')]);
    assert.deepEqual(await countOpenUploads(client), { waiting: 1, promoting: 0 });
  });

  test('references are the same if they and the sizes are', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const upload = askedUpload('abc', { dataBase64: null, dataRef: 'spool:x' });
    const others = [{ ...upload, dataRef: 'spool:y' }, { ...upload, size: 4 }, askedUpload('abc', upload)];
    others[2]!.dataBase64 = 'YWJj';
    assert.deepEqual(await take(client, [upload, upload]), []);
    const refused = await take(client, others);
    assert.deepEqual(
      refused.map(({ fault }) => fault),
      others.map(() => KEY_OF_OTHER_BYTES),
    );
  });

  test('eight who take the same keys in other orders: each key once, nobody waits for ever', async () => {
    await using database = await outboxDatabase();
    const uploads = Array.from({ length: 1_000 }, (_, number) => askedUpload(`file ${number}`));
    const clients = await Promise.all(Array.from({ length: 8 }, () => database.connect()));
    const outcomes = await Promise.all(
      clients.map((client, turn) => take(client, turn % 2 === 0 ? uploads : uploads.toReversed())),
    );
    assert.deepEqual(outcomes.flat(), []);
    assert.deepEqual(await countOpenUploads(database.client), { waiting: 1_000, promoting: 0 });
  });

  test('eight who race with other bytes for one key: one has it, seven are told', async () => {
    await using database = await outboxDatabase();
    const key = 'the-same';
    const clients = await Promise.all(Array.from({ length: 8 }, () => database.connect()));
    const outcomes = await Promise.all(
      clients.map((client, turn) => take(client, [askedUpload(`bytes ${turn}`, { idempotencyKey: key })])),
    );
    assert.equal(outcomes.filter((refused) => refused.length === 1).length, 7);
    const { data, sha256: hash } = await uploadRow(database.client, key);
    assert.equal(sha256(data!), hash);
  });

  test('the longest names and references, Unicode and paths: found again by name', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    // Characters of four bytes that do not compress.
    const long = Array.from({ length: 1_024 }, (_, at) => String.fromCodePoint(0x20000 + at * 37)).join('');
    for (const filename of ['../../etc/passwd', '/etc/passwd', 'a b\n"c\'', '文件.txt', long]) {
      const upload = askedUpload('x', { filename, dataBase64: null, dataRef: long });
      assert.deepEqual(await take(client, [upload]), []);
      const { rows } = await client.query(
        'SELECT idempotency_key FROM orchestrator.upload WHERE filename = $1',
        [filename],
      );
      assert.deepEqual(rows, [{ idempotency_key: upload.idempotencyKey }]);
    }
  });
});

suite('outcomes', () => {
  test('stored: better than in Redis, the bytes leave the row; an event tells it, once, however often it is said', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const upload = askedUpload('abc', { metadata: { order: 7 } });
    const key = upload.idempotencyKey;
    await take(client, [upload]);
    await markStored(client, key, 1, copy('redis', true));
    // A worker that was thought dead.
    const told = await markStored(client, key, 2, copy('s3'));
    assert.equal(told?.receipt?.tier, 'redis');
    const row = await uploadRow(client, key);
    assert.deepEqual([row.state, row.data?.toString(), row.attempts], ['promoting', 'abc', 1]);
    await markPromoted(client, key, 'filesystem', copy('s3'));
    assert.equal((await uploadRow(client, key)).tier, 'redis');
    await markPromoted(client, key, 'redis', copy('s3'));
    await markPromoted(client, key, 'redis', copy('s3'));
    assert.equal((await uploadRow(client, key)).data, null);
    const direct = askedUpload('abc');
    await take(client, [direct]);
    await markStored(client, direct.idempotencyKey, 1, copy('filesystem', true));
    assert.equal((await uploadRow(client, direct.idempotencyKey)).data, null);
    const events = await receipts(client, key);
    assert.deepEqual(
      events.map(({ tier, state, sha256: hash, metadata }) => [tier, state, hash, metadata]),
      [
        ['redis', 'promoting', sha256('abc'), { order: 7 }],
        ['s3', 'promoted', sha256('abc'), { order: 7 }],
      ],
    );
    assert.deepEqual(await take(client, [upload]), []);
    assert.deepEqual(await openUploads(client, [key]), []);
  });

  test('failed: a letter that refers to the bytes in the row; its replay waits again with them', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const upload = askedUpload('abc');
    const key = upload.idempotencyKey;
    await take(client, [upload]);
    assert.equal(await markFailed(client, key, refusal), true);
    assert.equal(await markFailed(client, key, refusal), false);
    const [letter, ...more] = await letters(client, key);
    assert.equal(more.length, 0);
    assert.deepEqual(letter!.payload, {
      filename: 'a file.txt',
      content_type: 'text/plain',
      metadata: {},
      size: 3,
      data_b64: null,
      data_ref: `upload:${key}`,
    });
    assert.deepEqual([letter!.error_type, letter!.error_message], ['storage_refused', 's3: forbidden']);
    const { rowCount } = await client.query(
      `SELECT FROM core_outboxmessage WHERE topic = 'upload.retry.dlq' AND payload->>'dead_letter_id' = $1`,
      [letter!.id],
    );
    assert.equal(rowCount, 1);
    const replay = { ...upload, dataBase64: null, dataRef: `upload:${key}` };
    assert.deepEqual(await take(client, [replay]), []);
    const row = await uploadRow(client, key);
    assert.deepEqual([row.state, row.attempts, row.data?.toString()], ['waiting', 0, 'abc']);
    assert.equal((await openUploads(client, [key])).length, 1);
  });

  test('a replay under another key, or of an upload that is gone, is refused', async () => {
    await using database = await outboxDatabase();
    const stray = askedUpload('', { idempotencyKey: 'gone', dataBase64: null, dataRef: 'upload:gone' });
    const foreign = { ...stray, idempotencyKey: 'other', dataRef: 'upload:gone' };
    const refused = await take(database.client, [stray]);
    assert.deepEqual(refused, [{ upload: stray, fault: NO_OWN_BYTES }]);
    assert.deepEqual(await take(database.client, [foreign]), [{ upload: foreign, fault: NO_OWN_BYTES }]);
  });

  test('cancelled: what is not stored keeps its bytes; it comes back by hand, or by a message that was sent later', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const [waiting, promoting] = [askedUpload('a'), askedUpload('b')];
    await take(client, [waiting, promoting]);
    await markTouched(client, promoting.idempotencyKey, 'redis');
    await markStored(client, promoting.idempotencyKey, 1, copy('redis', true));
    const before = Date.now() - 60_000;
    for (const { idempotencyKey } of [waiting, promoting]) await markCancelled(client, idempotencyKey);
    const sentAt = (moment: number) => [waiting, promoting].map((its) => ({ ...its, sentAt: moment }));
    for (const moment of [-1, before]) await take(client, sentAt(moment));
    const states = async () => [
      (await uploadRow(client, waiting.idempotencyKey)).state,
      (await uploadRow(client, promoting.idempotencyKey)).state,
    ];
    assert.deepEqual(await states(), ['cancelled', 'stored']);
    assert.equal((await uploadRow(client, waiting.idempotencyKey)).data?.toString(), 'a');
    await wakeUpload(client, waiting.idempotencyKey);
    assert.deepEqual(await states(), ['waiting', 'stored']);
    await markCancelled(client, waiting.idempotencyKey);
    await take(client, [...sentAt(Date.now() + 60_000), ...sentAt(before)]);
    assert.deepEqual(await states(), ['waiting', 'stored']);
    await markCancelled(client, waiting.idempotencyKey);
    await take(client, sentAt(Number.MAX_VALUE));
    assert.deepEqual(await states(), ['waiting', 'stored']);
  });

  test('by hand: the same reference is found, other bytes are refused, a reference that led nowhere can be corrected', async () => {
    await using database = await outboxDatabase();
    const { client } = database;
    const { idempotencyKey: key, ...request } = askedUpload('abc', { dataRef: 'spool:typo' });
    const ask = (dataRef: string) => takeByReference(client, key, { ...request, dataRef });
    assert.equal(await ask('spool:typo'), true);
    assert.equal(await ask('spool:typo'), true);
    assert.equal(await ask('spool:right'), false);
    await markFailed(client, key, { code: 'upload_refused', reason: 'no such file' });
    assert.equal(await ask('spool:right'), true);
    const upload = await readUpload(client, key);
    assert.deepEqual([upload?.state, upload?.dataRef, upload?.lastError], ['waiting', 'spool:right', null]);
  });
});
