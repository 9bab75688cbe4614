// Streams a large file into one tier and back, with as much memory as a small one takes; prints what it took, as JSON.
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { openTiers, type TierSettings } from '../../src/storage/tiers.ts';
import { never, newKey } from './storage.ts';

const [name, mebibytes, settings] = process.argv.slice(2);
const tier = openTiers(JSON.parse(settings!) as TierSettings).find((one) => one.name === name)!;
const block = Buffer.alloc(1024 * 1024, 'a file of one mebibyte after another');

/** So many mebibytes, made as they are asked for. */
function file(count: number) {
  const hash = createHash('sha256');
  for (let made = 0; made < count; made += 1) hash.update(block);
  async function* blocks() {
    for (let given = 0; given < count; given += 1) yield block;
  }
  const facts = {
    size: count * block.length,
    sha256: hash.digest('hex'),
    filename: 'large',
    contentType: null,
  };
  return { facts, open: async () => Readable.from(blocks(), { objectMode: false }) };
}

async function through(count: number): Promise<void> {
  const key = newKey();
  const { facts, open } = file(count);
  await tier.store(key, open, facts, never);
  await tier.verify(key, facts, never);
  await tier.remove(key, never);
}

let peak = 0;
const watch = setInterval(() => {
  peak = Math.max(peak, process.memoryUsage.rss());
}, 20);
// The buffers that every upload in parts takes.
await through(64);
const small = peak;
const begun = Date.now();
await through(Number(mebibytes));
const seconds = (Date.now() - begun) / 1000;
clearInterval(watch);
const inMebibytes = (bytes: number) => Math.round(bytes / block.length);
console.log(JSON.stringify({ small: inMebibytes(small), large: inMebibytes(peak), seconds }));
