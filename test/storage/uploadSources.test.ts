import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, suite, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { inOne } from '../../src/storage/digest.ts';
import { SourceError, UploadSources } from '../../src/storage/uploadSources.ts';
import { eventually } from '../support/eventually.ts';
import { httpListener, silentListener } from '../support/listeners.ts';
import { contentOf, never, stackS3 } from '../support/storage.ts';

let root: string;
let spoolDir: string;

before(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'uploads-'));
  spoolDir = path.join(root, 'spool');
  await mkdir(path.join(spoolDir, 'below'), { recursive: true });
  await writeFile(path.join(spoolDir, 'a file ü.txt'), 'abc');
  await writeFile(path.join(spoolDir, 'below', 'b'), 'abc');
  await writeFile(path.join(root, 'secret'), 'abc');
  await symlink(path.join(root, 'secret'), path.join(spoolDir, 'link'));
  await symlink(root, path.join(spoolDir, 'out'));
  await symlink('loop', path.join(spoolDir, 'loop'));
  execFileSync('mkfifo', [path.join(spoolDir, 'fifo')]);
  await mkdir(path.join(root, 'spool-beside'));
  await writeFile(path.join(root, 'spool-beside', 'c'), 'abc');
});
after(() => rm(root, { recursive: true }));

const sources = (allowed: string[] = []) => new UploadSources({ spoolDir, allowed, s3: stackS3() });

const read = async (from: UploadSources, ref: string, size = 3): Promise<string> =>
  (await inOne(await from.open(ref, size, never), Buffer.alloc(size))).toString();

const is = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SourceError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  return true;
};
const refused = (message: RegExp) => is('upload_refused', message);
const away = (message: RegExp) => is('storage_unavailable', message);

suite('files', () => {
  const below = (...names: string[]) => pathToFileURL(path.join(spoolDir, ...names)).href;

  test('in the spool are read by name, and below it by their URL', async () => {
    assert.equal(await read(sources(), 'spool:a file ü.txt'), 'abc');
    assert.equal(await read(sources(), below('below', 'b')), 'abc');
    assert.equal(await read(sources(), `FILE://localhost${path.join(spoolDir, 'below', 'b')}`), 'abc');
  });

  test('elsewhere are not, whatever links and dots say; nor is what is no regular file', async () => {
    const table: [ref: string, why: RegExp][] = [
      ['spool:', /name of a file/],
      ['spool:..', /name of a file/],
      ['spool:../secret', /name of a file/],
      ['spool:below/b', /name of a file/],
      ['spool:a\\b', /name of a file/],
      ['spool:a\0b', /name of a file/],
      ['spool:link', /leads out of the spool/],
      ['spool:loop', /ELOOP/],
      ['spool:fifo', /no regular file/],
      ['spool:below', /no regular file/],
      ['spool:missing', /ENOENT/],
      [`spool:${'x'.repeat(300)}`, /ENAMETOOLONG/],
      [below('..', 'secret'), /leads out of the spool/],
      [`file://${spoolDir}/%2e%2e/secret`, /leads out of the spool/],
      [`file://${spoolDir}/below%2f..%2fb`, /no path of this host/],
      [below('out', 'secret'), /leads out of the spool/],
      [pathToFileURL(path.join(root, 'spool-beside', 'c')).href, /leads out of the spool/],
      ['file:///etc/passwd', /leads out of the spool/],
      ['file://host/etc/passwd', /no path of this host/],
      ['/etc/passwd', /must begin with spool:/],
      ['ftp://127.0.0.1/x', /must begin with spool:/],
      ['upload:key', /must begin with spool:/],
      ['', /must begin with spool:.*got a text of 0 characters/],
    ];
    for (const [ref, why] of table) await assert.rejects(read(sources(), ref), refused(why), ref);
  });

  test('a spool that is away is an outage, one that is not configured a refusal', async () => {
    const gone = new UploadSources({ spoolDir: path.join(root, 'gone'), allowed: [], s3: undefined });
    await assert.rejects(read(gone, 'spool:x'), away(/the spool cannot be reached/));
    const none = new UploadSources({ spoolDir: undefined, allowed: [], s3: undefined });
    assert.throws(() => none.check('spool:x'), refused(/SA01_SPOOL_DIR is not set/));
    assert.throws(() => none.check('s3://b/k'), refused(/SA01_S3_ENDPOINT is not set/));
  });

  test('more or fewer bytes than promised are refused', async () => {
    await assert.rejects(read(sources(), 'spool:a file ü.txt', 2), refused(/size is 2, but .* more bytes/));
    await assert.rejects(read(sources(), 'spool:a file ü.txt', 4), refused(/size is 4, but .* 3 bytes/));
  });

  test('a source that nobody reads to its end leaves no file open', async () => {
    const file = path.join(spoolDir, 'large');
    const bytes = contentOf(1_000_000);
    await writeFile(file, bytes);
    const isOpen = () =>
      readdirSync('/proc/self/fd').some((fd) => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`) === file;
        } catch {
          return false;
        }
      });
    const closed = () => eventually('the file to be closed', () => !isOpen());
    const unread = await sources().open('spool:large', bytes.length, never);
    assert.ok(isOpen());
    unread.destroy();
    await closed();

    for await (const chunk of await sources().open('spool:large', bytes.length, never)) {
      assert.ok(chunk.equals(bytes.subarray(0, chunk.length)) && isOpen());
      break;
    }
    await closed();

    const controller = new AbortController();
    const aborted = await sources().open('spool:large', bytes.length, controller.signal);
    const reading = inOne(aborted, Buffer.alloc(bytes.length));
    controller.abort();
    await assert.rejects(reading, { name: 'AbortError' });
    await closed();
  });
});

suite('pages', () => {
  test('are read below an allowed prefix only, without redirects or passwords', async () => {
    await using server = await httpListener((request, response) => {
      if (request.url === '/in/a') response.end('abc');
      else if (request.url === '/in/moved') response.writeHead(302, { location: '/in/a' }).end();
      else if (request.url === '/in/busy') response.writeHead(503).end();
      else if (request.url === '/in/endless') response.write('abcdef');
      else if (request.url === '/in/cut') {
        response.writeHead(200, { 'content-length': '3' }).write('a', () => response.destroy());
      } else response.writeHead(404).end();
    });
    const base = `http://${server.address}`;
    const from = sources([`${base}/in/`]);
    assert.equal(await read(from, `${base}/in/a`), 'abc');
    const refusals: [string, RegExp][] = [
      [`${base}/in/moved`, /answers 302/],
      [`${base}/in/none`, /answers 404/],
      [`${base}/in/endless`, /more bytes/],
      [`${base}/other`, /not below one of SA01_UPLOAD_SOURCES/],
      [`${base}/in/../other`, /not below one of SA01_UPLOAD_SOURCES/],
      [`${base}/in/%2e%2e/other`, /not below one of SA01_UPLOAD_SOURCES/],
      [`${base}/in/..%2fother`, /not below one of SA01_UPLOAD_SOURCES/],
      [`${base}/in/%252e%252e/other`, /not below one of SA01_UPLOAD_SOURCES/],
      [`${base}/in/..;/other`, /not below one of SA01_UPLOAD_SOURCES/],
      [`http://ann:word@${server.address}/in/a`, /must not hold a user name or a password/],
      [`http://127.0.0.1.nip.io:${server.port}/in/a`, /not below/],
    ];
    for (const [ref, why] of refusals) await assert.rejects(read(from, ref), refused(why), ref);
    await assert.rejects(read(from, `${base}/in/busy`), away(/answers 503/));
    await assert.rejects(read(from, `${base}/in/cut`), away(/./));
    assert.throws(() => sources().check(`${base}/in/a`), refused(/SA01_UPLOAD_SOURCES/));
  });

  test('that cannot be reached are an outage; a cancellation ends a silent one', async () => {
    const server = await silentListener();
    const base = `http://${server.address}/`;
    const controller = new AbortController();
    const opening = sources([base]).open(`${base}x`, 3, controller.signal);
    controller.abort();
    await assert.rejects(opening, { name: 'AbortError' });
    await server[Symbol.asyncDispose]();
    await assert.rejects(read(sources([base]), `${base}x`), away(/data_ref \(http\)/));
  });
});

suite('objects', () => {
  test('dots lead nowhere, neither out of the own bucket nor out of a prefix', () => {
    const { bucket } = stackS3();
    const from = sources(['s3://shared/public/']);
    for (const ref of [
      `s3://${bucket}/../shared/private/x`,
      `s3://${bucket}/a/../../shared/private/x`,
      `s3://${bucket}/..`,
      `s3://${bucket}/a\\..\\b`,
      's3://shared/public/../private/x',
      's3://shared/public/./x',
      's3://shared/public/..',
    ])
      assert.throws(() => from.check(ref), refused(/must not have \. or \.\./), ref);
    for (const ref of ['s3:///x', 's3://../x/y', 's3://./x/y', `s3://ann:word@${bucket}/x`, `s3://${bucket}`])
      assert.throws(() => from.check(ref), refused(/s3:\/\/bucket\/key|must not have/), ref);
    from.check('s3://shared/public/..x/y..');
    from.close();
  });

  test('no password of a reference is told', () => {
    for (const ref of [
      'ftp://ann:word@host/x',
      '//ann:word@host/x',
      's3://ann:word@host/x',
      'http://ann:word@host/x',
    ])
      assert.throws(
        () => sources().check(ref),
        (error: Error) => !error.message.includes('word@') && refused(/./)(error),
        ref,
      );
  });

  test('credentials that S3 does not take are an outage, and no fault of the upload', async () => {
    const settings = stackS3();
    for (const wrong of [{ accessKeyId: 'nobody' }, { secretAccessKey: 'wrong' }]) {
      const from = new UploadSources({ spoolDir, allowed: [], s3: { ...settings, ...wrong } });
      await assert.rejects(
        read(from, `s3://${settings.bucket}/in/x`),
        away(/InvalidAccessKeyId|XAdminUserNotFound|SignatureDoesNotMatch/),
      );
      from.close();
    }
  });

  test('of the own bucket are read; what is not there, or in another bucket, is refused', async () => {
    const settings = stackS3();
    const s3 = new S3Client({
      endpoint: settings.endpoint,
      forcePathStyle: true,
      region: 'us-east-1',
      credentials: settings,
    });
    await s3.send(new PutObjectCommand({ Bucket: settings.bucket, Key: 'in/ü a', Body: 'abc' }));
    s3.destroy();
    const own = `s3://${settings.bucket}/in/`;
    const from = sources(['s3://missing-bucket/in/']);
    assert.equal(await read(from, `${own}ü a`), 'abc');
    await assert.rejects(read(from, `${own}none`), refused(/NoSuchKey/));
    await assert.rejects(read(from, 's3://missing-bucket/in/x'), refused(/./));
    await assert.rejects(read(from, 's3://missing-bucket/out/x'), refused(/SA01_UPLOAD_SOURCES/));
    await assert.rejects(read(from, 's3:///x'), refused(/s3:\/\/bucket\/key/));
    const silent = new UploadSources({
      spoolDir,
      allowed: [],
      s3: { ...settings, endpoint: 'http://127.0.0.1:1' },
    });
    await assert.rejects(read(silent, `${own}x`), away(/./));
    for (const each of [from, silent]) each.close();
  });
});
