import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { access, mkdir, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { CreateMultipartUploadCommand, HeadObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { commitManifest } from '../../src/backups/commit.ts';
import type { BackupDestination } from '../../src/backups/destination.ts';
import { readHolds, writeHold } from '../../src/backups/holds.ts';
import { openDestination } from '../../src/backups/open.ts';
import { restoreTree } from '../../src/backups/restore.ts';
import { s3Client } from '../../src/backups/s3.ts';
import type { BackupFile } from '../../src/domain/backupFacts.ts';
import { faulty, flipOneBit } from '../support/backupFaults.ts';
import {
  type BackupPlace,
  backUp,
  backupPlace,
  catalogue,
  never,
  newAddress,
  strandedIn,
} from '../support/backups.ts';

const exec = promisify(execFile);

const inS3 = async (place: BackupPlace): Promise<BackupDestination> => {
  const bucket = place.settings.destinations.s3!.buckets[0];
  return openDestination(`s3://${bucket}/backups-${randomUUID()}`, place.settings);
};

/** Lays a file of somebody else's there, long ago. */
async function lay(place: BackupPlace, { url }: BackupDestination, file: string): Promise<void> {
  const { protocol, hostname, pathname } = new URL(url);
  if (protocol === 's3:') {
    const object = { Bucket: hostname, Key: `${pathname.slice(1)}/${file}`, Body: 'x' };
    await s3Client(place.settings.destinations.s3!).send(new PutObjectCommand(object));
  } else {
    const lying = path.join(pathname, file);
    await mkdir(path.dirname(lying), { recursive: true });
    await writeFile(lying, 'x');
  }
}

async function lies(place: BackupPlace, { url }: BackupDestination, file: string): Promise<boolean> {
  const { protocol, hostname, pathname } = new URL(url);
  const head = new HeadObjectCommand({ Bucket: hostname, Key: `${pathname.slice(1)}/${file}` });
  const looking =
    protocol === 's3:'
      ? s3Client(place.settings.destinations.s3!).send(head)
      : access(path.join(pathname, file));
  return looking.then(
    () => true,
    () => false,
  );
}

const kinds: Record<string, (place: BackupPlace) => Promise<BackupDestination>> = {
  'a directory': async ({ destination }) => destination,
  S3: inS3,
};

for (const [kind, open] of Object.entries(kinds)) {
  describe(`${kind} as destination`, () => {
    test('a backup of many parts is restored from it, and removed', async () => {
      await using place = await backupPlace({ compression: 'none' });
      const destination = await open(place);
      const tree = path.join(place.directory, 'sources', 'tree');
      await mkdir(tree);
      // Random, so that it is as large when it is stored: more than two parts.
      for (const name of ['a', 'b', 'c']) await writeFile(path.join(tree, name), randomBytes(13_000_000));
      const { address, content } = await backUp(place, 'files', tree, { destination });
      assert.deepEqual(await catalogue(destination), [address.id]);
      const directory = path.join(place.directory, 'restored');
      await restoreTree({ ...place, destination, address, content }, { directory }, never);
      await destination.remove(address, never);
      await destination.remove(address, never);
      assert.deepEqual(await catalogue(destination), []);
      assert.deepEqual(await strandedIn(destination), []);
      await assert.rejects(destination.read(address, 'data', never), { code: 'backup_refused' });
    });

    test('what is changed there is found out, and nothing stays', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const tree = path.join(place.directory, 'sources', 'tree');
      await mkdir(tree);
      await writeFile(path.join(tree, 'a'), randomBytes(1_000_000));
      const changing = faulty(destination, flipOneBit);
      await assert.rejects(backUp(place, 'files', tree, { destination: changing }), {
        code: 'backup_failed',
      });
      assert.deepEqual(await catalogue(destination), []);
      assert.deepEqual(await strandedIn(destination), []);
    });

    test('a manifest is there or not, twice the same is once, and never becomes another', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const address = newAddress('files', '/x');
      assert.equal(await destination.readNote(address, 'manifest.json', never), undefined);
      await destination.write(address, 'data', Readable.from([Buffer.from('data')]), never);
      assert.deepEqual(await catalogue(destination), []);
      const files = [{ name: 'data', size: 4 }] as const;
      const commit = (manifest: string) => commitManifest(destination, address, { manifest, files }, never);
      await commit('{"a":1}');
      await commit('{"a":1}');
      await assert.rejects(commit('{"a":2}'), { code: 'backup_refused' });
      assert.equal(await destination.readNote(address, 'manifest.json', never), '{"a":1}');
      assert.deepEqual(await strandedIn(destination), []);
    });

    test('a manifest is written only beside all of its files, and does not outlast them', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const address = newAddress('files', '/x');
      const files = [
        { name: 'data', size: 4 },
        { name: 'globals', size: 2 },
      ] as const;
      const commit = (at = destination) => commitManifest(at, address, { manifest: '{}', files }, never);
      const put = (file: BackupFile, text: string) =>
        destination.write(address, file, Readable.from([Buffer.from(text)]), never);
      const refuses = (message: RegExp) => assert.rejects(commit(), { code: 'backup_refused', message });
      await refuses(/\/data is not there: somebody removed it, or not all workers share this destination/);
      await put('data', 'dat');
      await put('globals', 'go');
      await refuses(/\/data has 3 bytes instead of 4/);
      assert.deepEqual(await catalogue(destination), []);
      await put('data', 'data');
      const losing = Object.assign(Object.create(destination) as BackupDestination, {
        writeNote: (async (...note) => {
          await destination.writeNote(...note);
          // As somebody does who is about to remove all of it.
          await put('globals', '');
        }) as BackupDestination['writeNote'],
      });
      await assert.rejects(commit(losing), { code: 'backup_refused' });
      assert.deepEqual(await catalogue(destination), []);
    });

    test('what is not of its own making is neither stranded nor removed', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const others = ['files/a/b', `storage/uploads/ab`, 'database/core/20260101t000000z-0000000z-1'];
      const names = ['data', 'c', 'f'.repeat(64), 'data.partial-1', 'below/data'];
      const mixed = newAddress('files', '/mixed');
      const foreign = [
        ...others.flatMap((directory) => names.map((name) => `${directory}/${name}`)),
        `files/${mixed.source}/${mixed.id}/notes.txt`,
        'redis/agents/the-last-good-one/data',
      ];
      for (const file of foreign) await lay(place, destination, file);
      await destination.write(mixed, 'data', Readable.from([Buffer.from('data')]), never);
      assert.deepEqual(await strandedIn(destination), []);
      await destination.remove(mixed, never);
      await destination.remove({ type: 'files', source: 'a', id: 'b' }, never);
      for (const file of foreign.filter((name) => name !== 'files/a/b/data'))
        assert.ok(await lies(place, destination, file), file);
      assert.equal(await destination.size(mixed, 'data', never), undefined);
    });

    test('a hold lies beside its backup, and goes with it', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const [one, other] = [newAddress('files', '/one'), newAddress('files', '/other')];
      for (const address of [one, other])
        await destination.write(address, 'data', Readable.from([Buffer.from('data')]), never);
      await destination.writeNote(one, 'manifest.json', '{}', never);
      await writeHold(destination, one, 'an audit', never);
      const backups = [
        { id: 'one', address: one },
        { id: 'without a manifest', address: other },
        { id: 'without an address', address: null },
      ];
      const holds = async () => [...(await readHolds(destination, backups, never))];
      assert.deepEqual(await holds(), [['one', 'an audit']]);
      await writeHold(destination, one, null, never);
      assert.deepEqual(await holds(), [['one', null]]);
      for (const address of [one, other]) await destination.remove(address, never);
      assert.deepEqual(await holds(), []);
      assert.deepEqual(await strandedIn(destination), []);
    });

    test('a write that fails or is cancelled leaves nothing under the name', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const address = newAddress('files', '/x');
      const source = new Error('the source broke');
      const breaking = Readable.from(
        (async function* () {
          for (let part = 0; part < 40; part++) yield Buffer.alloc(1 << 20);
          throw source;
        })(),
      );
      await assert.rejects(destination.write(address, 'data', breaking, never));
      const cancel = new AbortController();
      const endless = Readable.from(
        (async function* () {
          for (let part = 0; ; part++) {
            if (part === 40) cancel.abort(new Error('cancelled'));
            yield Buffer.alloc(1 << 20);
          }
        })(),
      );
      await assert.rejects(destination.write(address, 'data', endless, cancel.signal));
      await assert.rejects(destination.read(address, 'data', never), { code: 'backup_refused' });
      assert.deepEqual(await strandedIn(destination), []);
    });

    test('what a killed worker left is stranded, if it is old enough, and can be removed', async () => {
      await using place = await backupPlace();
      const destination = await open(place);
      const left = newAddress('files', '/left');
      const whole = newAddress('files', '/whole');
      for (const address of [left, whole])
        await destination.write(address, 'data', Readable.from([Buffer.from('data')]), never);
      await destination.writeNote(whole, 'manifest.json', '{}', never);
      assert.deepEqual(await destination.stranded(Date.now() - 3_600_000, never), []);
      const stranded = await strandedIn(destination);
      assert.equal(stranded.length, 1);
      assert.ok(stranded[0]!.name.includes(left.id));
      await stranded[0]!.remove(never);
      assert.deepEqual(await strandedIn(destination), []);
      assert.deepEqual(await catalogue(destination), [whole.id]);
    });
  });
}

test('an upload to S3 that nobody finished is stranded too', async () => {
  await using place = await backupPlace();
  const destination = await inS3(place);
  const { s3 } = place.settings.destinations;
  const address = newAddress('files', '/x');
  const Key = `${destination.url.split('/').at(-1)}/files/${address.source}/${address.id}/data`;
  const client = s3Client(s3!);
  await client.send(new CreateMultipartUploadCommand({ Bucket: s3!.buckets[0], Key }));
  const [stranded] = await strandedIn(destination);
  assert.ok(stranded);
  await stranded.remove(never);
  assert.deepEqual(await strandedIn(destination), []);
});

test('the objects of a storage tier are backed up, and restored as files', async () => {
  await using place = await backupPlace();
  const tier = place.settings.tiers.s3!;
  const client = s3Client(tier);
  const prefix = `uploads-${randomUUID()}/`;
  for (let object = 0; object < 25; object++) {
    const Body = randomBytes(object * 10_000);
    await client.send(new PutObjectCommand({ Bucket: tier.bucket, Key: `${prefix}${object}/of many`, Body }));
  }
  const Key = `${prefix}0/folder/`;
  await client.send(new PutObjectCommand({ Bucket: tier.bucket, Key, Body: '' }));
  const { address, content } = await backUp(place, 'storage', `s3/${prefix}`);
  assert.equal(content.entries, 26);
  assert.match(content.notes.join(), /^1 keys are no plain paths/);
  const directory = path.join(place.directory, 'restored');
  assert.deepEqual(await restoreTree({ ...place, address, content }, { directory }, never), { entries: 26 });
  assert.equal((await stat(path.join(directory, prefix, '0/folder%2f'))).size, 0);
  await assert.rejects(backUp(place, 'storage', 'redis'), {
    code: 'backup_refused',
    message: /no storage tier/,
  });
});

test('a bucket that is not there, and keys that are wrong, are refused', async () => {
  await using place = await backupPlace();
  const s3 = { ...place.settings.destinations.s3!, buckets: ['no-such-bucket'] };
  const address = newAddress('files', '/x');
  const write = (destination: BackupDestination) =>
    destination.write(address, 'data', Readable.from([Buffer.from('data')]), never);
  const missing = { ...place.settings, destinations: { roots: [], s3 } };
  await assert.rejects(write(await openDestination('s3://no-such-bucket', missing)), {
    code: 'backup_refused',
    message: /NoSuchBucket/,
  });
  const [bucket] = place.settings.destinations.s3!.buckets;
  const wrong = { ...place.settings.destinations.s3!, secretAccessKey: 'not the secret' };
  const forbidden = { ...place.settings, destinations: { roots: [], s3: wrong } };
  await assert.rejects(write(await openDestination(`s3://${bucket}/x`, forbidden)), {
    code: 'backup_refused',
    message: /SignatureDoesNotMatch|AccessDenied/,
  });
});

/** Mounts a file system of one MiB there; undefined where that is not allowed, or not Linux. */
async function tinyDisk(directory: string): Promise<AsyncDisposable | undefined> {
  try {
    await exec('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory]);
    return { [Symbol.asyncDispose]: async () => void (await exec('umount', [directory])) };
  } catch {
    return undefined;
  }
}

test('a full disk is told, and what was there stays', async (context) => {
  await using place = await backupPlace({ compression: 'none' });
  const backups = path.join(place.directory, 'backups');
  await using disk = await tinyDisk(backups);
  if (!disk) return context.skip('only root may mount a small file system');
  const [small, large] = ['small', 'large'].map((name) => path.join(place.directory, 'sources', name));
  for (const directory of [small!, large!]) await mkdir(directory);
  await writeFile(path.join(small!, 'file'), randomBytes(100_000));
  await writeFile(path.join(large!, 'file'), randomBytes(5_000_000));
  const good = await backUp(place, 'files', small!);
  await assert.rejects(backUp(place, 'files', large!), { code: 'backup_failed', message: /ENOSPC/ });
  assert.deepEqual(await catalogue(place.destination), [good.address.id]);
  assert.deepEqual(await strandedIn(place.destination), []);
  const directory = path.join(place.directory, 'restored');
  await restoreTree({ ...place, ...good }, { directory }, never);
});
