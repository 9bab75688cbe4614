import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { EntryNames, entryParts } from '../../src/backups/entryNames.ts';
import { extractTree } from '../../src/backups/extraction.ts';
import { TarWriter } from '../../src/backups/tarWriting.ts';
import { backupPlace } from '../support/backups.ts';

const keyOf = (name: string) => decodeURIComponent(name.replaceAll('%/', ''));

/** As S3 lists them. */
const inOrder = (keys: string[]) =>
  [...new Set(keys)].sort((one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)));

function namesOf(keys: string[]): string[] {
  const names = new EntryNames();
  return inOrder(keys).map((key) => names.of(key));
}

test('a key that is a plain path is its own name', () => {
  const keys = ['a', 'uploads/ab/0123', 'ünï code/x y', `x/${'y'.repeat(255)}`, '.hidden/...'];
  assert.deepEqual(namesOf(keys), inOrder(keys));
});

test('any keys of S3 are restored as files, whose names lead back to them', async () => {
  const keys = [
    ...['a', 'a/b', 'a/b/c', 'a-b/c', 'a//b', 'a/', '/abs', '//', '/', '../up', '.', './x', 'x/..', 'x/../y'],
    ...['100%', '100%25', '%/', 'long/'.repeat(200), `l/${'x'.repeat(1000)}`, `m/${'ü'.repeat(400)}/n`],
  ];
  await using place = await backupPlace();
  const names = namesOf(keys);
  const tar = TarWriter.stream(async (writer) => {
    for (const name of names) await writer.add({ name });
  });
  const directory = path.join(place.directory, 'restored');
  assert.equal(await extractTree(tar, directory), keys.length);
  const restored = await readdir(directory, { recursive: true, withFileTypes: true });
  const found = restored
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => keyOf(path.relative(directory, path.join(parentPath, name))));
  assert.deepEqual(inOrder(found), inOrder(keys));
});

test('no name is another one, or lies below it, and each can be restored', () => {
  const character = fc.constantFrom('/', '/', '.', '%', 'a', 'b', '2', 'F', '\0', 'ü', '😀', 'x'.repeat(130));
  const key = fc.string({ unit: character, minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(fc.array(key, { maxLength: 12 }), (keys) => {
      const names = namesOf(keys);
      assert.deepEqual(names.map(keyOf), inOrder(keys));
      const files = new Set(names);
      for (const name of names) {
        const parts = entryParts(name);
        assert.equal(parts.join('/'), name);
        for (let depth = 1; depth < parts.length; depth++)
          assert.ok(!files.has(parts.slice(0, depth).join('/')), `${name} lies below a file`);
      }
    }),
  );
});
