// What an upload costs: the worker's memory while a large file passes through it, and the rate beside a bare loop.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { MAX_UPLOADS } from '../../src/domain/uploads.ts';
import { queueUpload } from '../../src/queueUpload.ts';
import { openTiers } from '../../src/storage/tiers.ts';
import { eventually } from '../support/eventually.ts';
import {
  bytesAt,
  random,
  type SentFile,
  sha256,
  type UploadWorld,
  uploadWorld,
} from '../support/uploadWorld.ts';

const MIB = 1024 * 1024;
/** Beyond this much more than for a small file, memory would grow with the file. */
const FLAT_MIB = 64;

/** A file that is not in memory as a whole, here neither. */
async function makeFile(file: string, mebibytes: number): Promise<string> {
  const hash = createHash('sha256');
  await using handle = await open(file, 'w');
  for (let written = 0; written < mebibytes; written += 1) {
    const portion = random(MIB);
    hash.update(portion);
    await handle.writeFile(portion);
  }
  return hash.digest('hex');
}

/** The largest of what the worker had in memory while this file was stored, in MiB. */
async function peakWhile(world: UploadWorld, pid: number, mebibytes: number): Promise<number> {
  const file = path.join(world.directory, `${mebibytes}`);
  const expected = await makeFile(file, mebibytes);
  const upload = { filename: `${mebibytes} MiB`, bytes: { file } };
  const { idempotencyKey: key } = await queueUpload(world.database.client, upload, world);
  let peak = 0;
  const row = await eventually(
    'it to be in S3',
    async () => {
      peak = Math.max(peak, await residentMiB(pid));
      const [found] = await world.rows([{ key } as SentFile]);
      return found?.state === 'stored' && found.tier === 's3' ? found : undefined;
    },
    { withinMs: 300_000, everyMs: 20 },
  );
  if (sha256(await bytesAt(world.places, row.location)) !== expected)
    throw new Error('other bytes are in S3');
  return peak;
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024);
}

/** 300 MiB through the spool take the worker no more memory than 32 MiB. */
export async function largeUpload(say: (line: string) => void): Promise<boolean> {
  await using world = await uploadWorld({ intervalSeconds: 30 });
  const worker = await world.work();
  const pid = worker.process.pid!;
  await delay(2_000);
  const idle = await residentMiB(pid);
  const small = await peakWhile(world, pid, 32);
  const large = await peakWhile(world, pid, 300);
  say(
    `memory of the worker: idle ${idle} MiB, at most ${small} for a file of 32 MiB, ${large} for one of 300 MiB`,
  );
  console.log(JSON.stringify({ rssMiB: { idle, small, large } }));
  return large - small < FLAT_MIB;
}

/** Files per second of a bare loop of the S3 client, of the tier, and of the whole way from the commit to the row. */
export async function compareUploads(
  size: number,
  files: number,
  say: (line: string) => void,
): Promise<void> {
  await using world = await uploadWorld({ intervalSeconds: 30 });
  const worker = await world.work();
  const [tier] = openTiers(world.config);
  const signal = new AbortController().signal;
  const all = await Promise.all(
    Array.from({ length: files }, async (_, number) => {
      const file = path.join(world.directory, `rate-${number}`);
      const bytes = random(size);
      await writeFile(file, bytes);
      return { file, sha256: sha256(bytes), filename: `rate ${number}`, size, contentType: null };
    }),
  );
  const { s3, bucket: Bucket } = world.places;
  const bare = () =>
    rate(all, async ({ file, sha256 }) => {
      const Body = await readFile(file);
      await s3.send(new PutObjectCommand({ Bucket, Key: `bare/${sha256}`, Body }));
    });
  const stored = () =>
    rate(all, (facts) => tier!.store(facts.sha256, async () => createReadStream(facts.file), facts, signal));
  await bare();
  const rates = { bare: await bare(), tier: await stored(), whole: await wholeWay(world, all) };
  await worker.end();
  const ratio = (its: number) => Number((its / rates.bare).toFixed(2));
  const line = { size, files, ...rates, tierRatio: ratio(rates.tier), wholeRatio: ratio(rates.whole) };
  console.log(JSON.stringify(line));
  say(
    `${size} bytes: bare loop ${rates.bare}/s, tier ${rates.tier}/s, from commit to receipt ${rates.whole}/s`,
  );
}

type File = { file: string; sha256: string; filename: string; size: number; contentType: null };

async function rate(files: File[], work: (file: File) => Promise<unknown>): Promise<number> {
  const queue = files.values();
  const started = performance.now();
  const caller = async () => {
    for (const file of queue) await work(file);
  };
  await Promise.all(Array.from({ length: MAX_UPLOADS }, caller));
  return perSecond(files.length, performance.now() - started);
}

const perSecond = (count: number, ms: number): number => Number(((count * 1000) / ms).toFixed(1));

/** All are committed at once. */
async function wholeWay(world: UploadWorld, files: File[]): Promise<number> {
  const client = await world.database.connect();
  await client.query('BEGIN');
  const keys: string[] = [];
  for (const { file, filename } of files)
    keys.push((await queueUpload(client, { filename, bytes: { file } }, world)).idempotencyKey);
  const started = performance.now();
  await client.query('COMMIT');
  const isStored = async () => {
    const { rows } = await world.database.client.query<{ stored: number }>(
      `SELECT count(*)::int AS stored FROM orchestrator.upload WHERE idempotency_key = ANY ($1) AND state = 'stored'`,
      [keys],
    );
    return rows[0]!.stored === keys.length;
  };
  await eventually('all stored', isStored, { withinMs: 300_000, everyMs: 20 });
  return perSecond(files.length, performance.now() - started);
}
