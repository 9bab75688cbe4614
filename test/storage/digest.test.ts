import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { inPortions, promisedBytes } from '../../src/storage/digest.ts';
import { contentOf, factsOf, never, stallingSource } from '../support/storage.ts';

test('A source that gives nothing more is left as soon as the signal aborts', async () => {
  const bytes = contentOf(10);
  const { open } = stallingSource(bytes.subarray(1));
  const source = await open();
  const abort = new AbortController();
  const promised = promisedBytes(async () => source, factsOf(bytes), abort.signal);
  await promised.next();
  const waiting = assert.rejects(promised.next(), { message: 'no longer wanted' });
  abort.abort(new Error('no longer wanted'));
  await waiting;
  assert.ok(source.destroyed);
});

test('A source whose reader goes is closed', async () => {
  const bytes = contentOf(200_000);
  const source = Readable.from([bytes.subarray(0, 100_000), bytes.subarray(100_000)], { objectMode: false });
  for await (const _ of promisedBytes(async () => source, factsOf(bytes), never)) break;
  assert.ok(source.destroyed);
});

test('Portions have one size but for the last, whatever the chunks were', async () => {
  const bytes = contentOf(1_000);
  for (const chunk of [1, 7, 99, 100, 101, 250, 1_000]) {
    async function* chunks() {
      for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
    }
    for (const size of [1, 100, 333, 1_000, 2_000]) {
      const portions: Buffer[] = [];
      const inUse: Buffer[] = [];
      for await (const portion of inPortions(chunks(), size, 2)) {
        // The one before is still what it was.
        if (portions.length > 0) assert.ok(inUse.at(-1)!.equals(portions.at(-1)!));
        inUse.push(portion);
        portions.push(Buffer.from(portion));
      }
      assert.ok(new Set(inUse.map(({ buffer }) => buffer)).size <= 2);
      assert.ok(Buffer.concat(portions).equals(bytes));
      assert.ok(portions.slice(0, -1).every(({ length }) => length === size));
      assert.equal(portions.length, Math.ceil(bytes.length / size));
    }
  }
  for await (const _ of inPortions((async function* () {})(), 10, 1)) assert.fail();
});
