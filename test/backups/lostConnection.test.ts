// The way to S3 is lost when half of the bytes have passed, for good for that try. It fails clearly, the backup that was
// there before is as it was, and what the try left is no backup and goes.
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { openDestination } from '../../src/backups/open.ts';
import { restoreTree } from '../../src/backups/restore.ts';
import { s3Client } from '../../src/backups/s3.ts';
import { type BackupPlace, backUp, backupPlace, catalogue, never, strandedIn } from '../support/backups.ts';
import type { Direction } from '../support/faultProxy.ts';
import { FragileWay } from '../support/fragileWay.ts';
import { s3FilesBelow, stackS3 } from '../support/storage.ts';

/** A tree of so many incompressible bytes, and a destination in S3: directly, and by way of `way`. */
async function toS3(place: BackupPlace, way: FragileWay, size: number) {
  const tree = path.join(place.directory, 'sources', 'tree');
  await mkdir(tree);
  await writeFile(path.join(tree, 'file'), randomBytes(size));
  const { s3 } = place.settings.destinations;
  const lossy = { ...place.settings, destinations: { roots: [], s3: { ...s3!, endpoint: way.endpoint } } };
  const url = `s3://${s3!.buckets[0]}/backups-${randomUUID()}`;
  const destination = await openDestination(url, place.settings);
  return { tree, destination, lossy: await openDestination(url, lossy) };
}

const MB = 1_000_000;

for (const [what, size, direction, left] of [
  ['a backup in parts is written', 20 * MB, 'request', /\/data \(unfinished\)$/],
  ['a backup in one piece is written', 4 * MB, 'request', undefined],
  ['a backup is read back', 4 * MB, 'response', /\/data$/],
] as [string, number, Direction, RegExp | undefined][])
  test(`the way to S3 is lost while ${what}`, async () => {
    await using place = await backupPlace({ compression: 'none' });
    await using way = await FragileWay.to(stackS3().endpoint);
    const { tree, destination, lossy } = await toS3(place, way, size);
    const good = await backUp(place, 'files', tree, { destination });
    const before = await s3FilesBelow(destination.url);
    way.breaksAfter(size / 2, direction);
    await assert.rejects(backUp(place, 'files', tree, { destination: lossy }), {
      code: 'backup_failed',
      message: direction === 'request' ? /: data could not be written: / : /: data could not be read: /,
    });
    assert.ok(way.isLost);
    assert.deepEqual(await catalogue(destination), [good.address.id]);
    const leftThere = (await s3FilesBelow(destination.url)).filter((file) => !before.includes(file));
    if (left) assert.match(leftThere.join(), left);
    else assert.deepEqual(leftThere, []);

    way.mend();
    for (const stranded of await strandedIn(lossy)) await stranded.remove(never);
    assert.deepEqual(await s3FilesBelow(destination.url), before);
    const again = await backUp(place, 'files', tree, { destination: lossy });
    assert.deepEqual(await catalogue(destination), [good.address.id, again.address.id].sort());
    for (const { address } of [good, again]) await destination.remove(address, never);
    assert.deepEqual(await s3FilesBelow(destination.url), []);
  });

test('the way to S3 is lost while a backup is restored: what is there stays', async () => {
  await using place = await backupPlace({ compression: 'none' });
  await using way = await FragileWay.to(stackS3().endpoint);
  const size = 4 * MB;
  const { tree, destination, lossy } = await toS3(place, way, size);
  const made = await backUp(place, 'files', tree, { destination });
  const directory = path.join(place.directory, 'restored');
  await mkdir(directory);
  await writeFile(path.join(directory, 'old'), 'old');
  const restore = () =>
    restoreTree({ ...place, ...made, destination: lossy }, { directory, overwrite: true }, never);
  // While it is looked at, and while it is unpacked.
  for (const lostAfter of [size / 2, size * 1.5]) {
    way.breaksAfter(lostAfter, 'response');
    await assert.rejects(restore(), { code: 'backup_failed', message: /: data could not be read: / });
    assert.ok(way.isLost);
    way.mend();
    assert.deepEqual(await readdir(directory), ['old']);
    assert.deepEqual((await readdir(place.directory)).sort(), ['backups', 'restored', 'sources']);
  }
  await restore();
  assert.deepEqual(await readdir(directory), ['file']);
  await destination.remove(made.address, never);
});

test('the way to S3 is lost while a bucket is backed up', async () => {
  await using place = await backupPlace({ compression: 'none' });
  await using way = await FragileWay.to(stackS3().endpoint);
  const tier = place.settings.tiers.s3!;
  const prefix = `uploads-${randomUUID()}/`;
  for (let object = 0; object < 4; object++) {
    const Body = randomBytes(2 * MB);
    await s3Client(tier).send(new PutObjectCommand({ Bucket: tier.bucket, Key: `${prefix}${object}`, Body }));
  }
  const settings = { ...place.settings, tiers: { s3: { ...tier, endpoint: way.endpoint } } };
  const by = { destination: place.destination, settings };
  const good = await backUp(by, 'storage', `s3/${prefix}`);
  // In the middle of an object, and with the whole of one.
  for (const lostAfter of [3 * MB, 4 * MB]) {
    way.breaksAfter(lostAfter, 'response');
    await assert.rejects(backUp(by, 'storage', `s3/${prefix}`), { code: 'backup_failed' });
    assert.ok(way.isLost);
    way.mend();
    assert.deepEqual(await catalogue(place.destination), [good.address.id]);
    assert.deepEqual(await strandedIn(place.destination), []);
  }
  const again = await backUp(by, 'storage', `s3/${prefix}`);
  assert.equal(again.content.files[0]!.plainSha256, good.content.files[0]!.plainSha256);
});
