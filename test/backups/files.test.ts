import assert from 'node:assert/strict';
import {
  appendFile,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { type Header, pack } from 'tar-stream';
import { extractTree } from '../../src/backups/extraction.ts';
import { inspection } from '../../src/backups/inspection.ts';
import { makeBackup } from '../../src/backups/make.ts';
import { openSource } from '../../src/backups/open.ts';
import { restoreTree } from '../../src/backups/restore.ts';
import type { BackupSource } from '../../src/backups/source.ts';
import { openSeen, walk } from '../../src/backups/tree.ts';
import {
  type BackupPlace,
  backUp,
  backupPlace,
  catalogue,
  never,
  newAddress,
  strandedIn,
} from '../support/backups.ts';
import { eventually } from '../support/eventually.ts';

const sources = (place: BackupPlace, ...parts: string[]) => path.join(place.directory, 'sources', ...parts);

async function aTree(place: BackupPlace): Promise<string> {
  const root = sources(place, 'tree');
  await mkdir(path.join(root, 'notes', 'empty'), { recursive: true });
  await writeFile(path.join(root, 'notes', 'ünïcode name.txt'), 'hello');
  await writeFile(path.join(root, 'run.sh'), '#!/bin/sh\n', { mode: 0o750 });
  await writeFile(path.join(root, 'nothing'), '');
  await writeFile(path.join(root, `${'long'.repeat(50)}.txt`), 'a long name');
  await writeFile(path.join(root, 'large'), Buffer.alloc(3_000_000, 'large'));
  await symlink('../run.sh', path.join(root, 'notes', 'link'));
  await symlink('nowhere', path.join(root, 'dangling'));
  return root;
}

test('a tree is restored as it was: contents, modes, times, links, empty directories', async () => {
  await using place = await backupPlace();
  const root = await aTree(place);
  const { address, content } = await backUp(place, 'files', root);
  assert.equal(content.entries, 9);
  assert.deepEqual(content.notes, []);
  const directory = path.join(place.directory, 'restored');
  const restored = await restoreTree({ ...place, address, content }, { directory }, never);
  assert.deepEqual(restored, { entries: 9 });
  const names = (await readdir(root, { recursive: true })).sort();
  assert.deepEqual((await readdir(directory, { recursive: true })).sort(), names);
  for (const name of ['run.sh', 'large', 'nothing', 'notes/ünïcode name.txt']) {
    const [one, other] = [path.join(root, name), path.join(directory, name)];
    assert.deepEqual(await readFile(other), await readFile(one));
    const [was, is] = [await stat(one), await stat(other)];
    assert.equal(is.mode, was.mode);
    assert.equal(Math.trunc(is.mtimeMs / 1000), Math.trunc(was.mtimeMs / 1000));
  }
  assert.equal(await readlink(path.join(directory, 'notes', 'link')), '../run.sh');

  const again = { ...place, address, content };
  await assert.rejects(restoreTree(again, { directory }, never), { message: /is not empty/ });
  await writeFile(path.join(directory, 'later'), 'later');
  await restoreTree(again, { directory, overwrite: true }, never);
  assert.deepEqual((await readdir(directory, { recursive: true })).sort(), names);
  assert.deepEqual((await readdir(place.directory)).sort(), ['backups', 'restored', 'sources']);
});

test('an archive that lists fewer entries than were written is no backup', async () => {
  await using place = await backupPlace();
  const root = await aTree(place);
  const source = await openSource('files', root, place.settings);
  // A writer that is wrong about what it wrote.
  const one: BackupSource = {
    type: source.type,
    name: source.name,
    read: async (keep, signal) => {
      const facts = await source.read(keep, signal);
      return { ...facts, entries: facts.entries! + 1 };
    },
  };
  const order = { ...place, source: one, address: newAddress('files', root) };
  await assert.rejects(makeBackup(order, { signal: never }), {
    code: 'backup_failed',
    message: '10 entries were written, and the archive lists 9',
  });
  assert.deepEqual(await strandedIn(place.destination), []);
});

test('a file that changes while it is read is read once more; one that never rests is told', async () => {
  await using place = await backupPlace();
  const root = await aTree(place);
  const large = path.join(root, 'large');
  await truncate(large, 40_000_000);
  let changes = 0;
  const changing = (times: number) => {
    let position = 0;
    changes = 0;
    return ({ bytes }: { bytes: number }) => {
      if (changes === times || bytes - position < 10_000_000) return;
      position = bytes;
      changes++;
      void appendFile(large, 'more');
    };
  };
  const once = await backUp(place, 'files', root, { onProgress: changing(1) });
  assert.deepEqual(once.content.notes, []);
  assert.equal(once.content.entries, 10);
  const directory = path.join(place.directory, 'restored');
  await restoreTree({ ...place, ...once }, { directory }, never);
  assert.equal((await stat(path.join(directory, 'large'))).size, (await stat(large)).size);

  const always = await backUp(place, 'files', root, { onProgress: changing(Number.POSITIVE_INFINITY) });
  assert.deepEqual(always.content.notes, ['large changed while it was read, 3 times.']);
});

test('a link out of the tree, a tree outside the allowed roots and a link to such a tree are refused', async () => {
  await using place = await backupPlace();
  const root = await aTree(place);
  const outside = path.join(place.directory, 'secret');
  await mkdir(outside);
  const refused = (name: string, message: RegExp) =>
    assert.rejects(backUp(place, 'files', name), { code: 'backup_refused', message });
  await refused(outside, /not in or below an allowed directory/);
  await symlink(outside, sources(place, 'elsewhere'));
  await refused(sources(place, 'elsewhere'), /not in or below an allowed directory/);
  await refused(`${sources(place)}/../secret`, /no absolute path/);
  await refused(sources(place, 'missing'), /is not there/);
  for (const target of [outside, '../../secret', '../../../../etc/passwd', '/etc/passwd']) {
    const link = path.join(root, 'notes', `to-${target.replaceAll('/', '-')}`);
    await symlink(target, link);
    await refused(root, /leads out of the tree/);
    await rm(link);
  }
  // By two links, of which each seems harmless.
  await symlink('..', path.join(root, 'notes', 'up'));
  await symlink('notes/up/..', path.join(root, 'twice'));
  await refused(root, /leads out of the tree/);
  assert.deepEqual(await catalogue(place.destination), []);
  assert.deepEqual(await strandedIn(place.destination), []);
});

test('an archive that would write outside of its directory is refused', async () => {
  await using place = await backupPlace();
  const archives: Partial<Header>[][] = [
    [{ name: '../evil' }],
    [{ name: '/tmp/evil' }],
    [{ name: 'a/../../evil' }],
    [{ name: 'out', type: 'symlink', linkname: '..' }],
    [{ name: 'out', type: 'symlink', linkname: '/tmp' }],
    [{ name: 'in', type: 'symlink', linkname: 'deeper/deeper' }, { name: 'in/evil' }],
    // By two links, of which each seems harmless; and through them a mode for what is outside.
    [
      { name: 'd/up', type: 'symlink', linkname: '..' },
      { name: 'x', type: 'symlink', linkname: 'd/up/..' },
    ],
    [
      { name: 'd/up', type: 'symlink', linkname: '..' },
      { name: 'x', type: 'symlink', linkname: 'd/up/..' },
      { name: 'x', type: 'directory', mode: 0o777 },
    ],
    [
      { name: 'deeper', type: 'directory' },
      { name: 'in', type: 'symlink', linkname: 'deeper' },
      { name: 'in', type: 'directory', mode: 0o777 },
    ],
    [{ name: 'hard', type: 'link', linkname: '/etc/passwd' }],
    [{ name: 'device', type: 'character-device', devmajor: 1, devminor: 3 }],
  ];
  for (const headers of archives) {
    await assert.rejects(
      extractTree(tarOf(headers), path.join(place.directory, 'target')),
      { code: 'backup_refused' },
      JSON.stringify(headers),
    );
    assert.deepEqual((await readdir(place.directory)).sort(), ['backups', 'sources']);
    assert.equal((await stat(place.directory)).mode & 0o777, 0o700);
  }
});

function tarOf(headers: Partial<Header>[]): Readable {
  const archive = pack();
  for (const header of headers) {
    const whole = { ...header, name: header.name! };
    if (header.type) archive.entry(whole);
    else archive.entry(whole, 'evil');
  }
  archive.finalize();
  return Readable.from(archive as AsyncIterable<Buffer>);
}

test('an archive that is cut off, or has a name that no restore could take, is no good backup', async () => {
  const inspected = (tar: Readable) => {
    const inspect = inspection({ type: 'storage', file: 'data', binDir: undefined, signal: never }, () => {});
    return Readable.from(inspect(tar)).toArray();
  };
  for (const name of ['../up', '/abs', 'a//b', './a', 'x'.repeat(256)])
    await assert.rejects(inspected(tarOf([{ name }])), { code: 'backup_refused' }, name);
  const whole = Buffer.concat(await tarOf([{ name: 'a' }, { name: 'b' }]).toArray());
  const half = Readable.from([whole.subarray(0, 514)]);
  await assert.rejects(inspected(half), { code: 'backup_failed', message: /cannot be read/ });
});

test('a restore that fails at its very end leaves the directory as it was', async () => {
  await using place = await backupPlace();
  const directory = path.join(place.directory, 'target');
  await mkdir(directory);
  await writeFile(path.join(directory, 'old'), 'old');
  const asItWas = async () => {
    assert.deepEqual((await readdir(place.directory)).sort(), ['backups', 'sources', 'target']);
    assert.deepEqual(await readdir(directory), ['old']);
  };
  const two = [{ name: 'one' }, { name: 'other', mtime: new Date(1000) }];
  await assert.rejects(extractTree(tarOf(two), directory, { overwrite: true, expected: 3 }), {
    message: /has 2 entries instead of 3/,
  });
  await asItWas();

  // Takes the new tree away as soon as it is whole.
  async function* disturbed(): AsyncGenerator<Buffer> {
    yield* tarOf(two) as AsyncIterable<Buffer>;
    const partial = (name: string) => name.startsWith('target.partial-');
    const made = path.join(place.directory, (await readdir(place.directory)).find(partial)!);
    await eventually('the last file', async () => (await stat(path.join(made, 'other'))).mtimeMs === 1000);
    await rm(made, { recursive: true });
  }
  const tar = Readable.from(disturbed());
  await assert.rejects(extractTree(tar, directory, { overwrite: true }), { code: 'backup_failed' });
  await asItWas();
});

test('a place where something is mounted is no target', { skip: process.platform !== 'linux' }, () =>
  assert.rejects(extractTree(tarOf([{ name: 'file' }]), '/proc', { overwrite: true }), {
    code: 'backup_refused',
    message: /is where something is mounted/,
  }),
);

test('a file, or its directory, that was replaced by a link after it was seen is not opened', async () => {
  await using place = await backupPlace();
  const root = await aTree(place);
  const outside = path.join(place.directory, 'secret');
  await mkdir(outside);
  const name = 'ünïcode name.txt';
  await writeFile(path.join(outside, name), 'secret');
  const entries = await Readable.from(walk(root)).toArray();
  const inNotes = entries.find((entry) => entry.name === path.join('notes', name));
  const script = entries.find((entry) => entry.name === 'run.sh');
  const opened = await openSeen(inNotes);
  assert.equal(await opened?.readFile('utf8'), 'hello');
  await opened?.close();

  await rm(path.join(root, 'run.sh'));
  await writeFile(path.join(root, 'run.sh'), 'another');
  const another = await openSeen(script);
  assert.equal(await another?.readFile('utf8'), 'another');
  await another?.close();
  await rm(path.join(root, 'run.sh'));
  await symlink(path.join(outside, name), path.join(root, 'run.sh'));
  assert.equal(await openSeen(script), undefined);
  // The same file, moved out with its directory, and a link where that was.
  await rename(path.join(root, 'notes'), path.join(place.directory, 'moved'));
  await symlink(path.join(place.directory, 'moved'), path.join(root, 'notes'));
  assert.equal(await openSeen(inNotes), undefined);
});
