// The worker's memory while a large file passes through it.
import { createHash } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { GetObjectCommand } from '@aws-sdk/client-s3';
import { queueUpload } from '../../src/queueUpload.ts';
import { digestOf } from '../../src/storage/digest.ts';
import { eventually } from '../support/eventually.ts';
import { random, type SentFile, type UploadWorld, uploadWorld } from '../support/uploadWorld.ts';

const MIB = 1024 * 1024;
/** Beyond this much more than for a small file, memory would grow with the file. */
const FLAT_MIB = 64;
const SIZES_MIB = [32, 300, 1_024];

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
  if ((await storedSha256(world, row.location)) !== expected) throw new Error('other bytes are in S3');
  return peak;
}

async function storedSha256({ places }: UploadWorld, location: string): Promise<string> {
  const { hostname: Bucket, pathname } = new URL(location);
  const { Body } = await places.s3.send(new GetObjectCommand({ Bucket, Key: pathname.slice(1) }));
  return (await digestOf(Body as Readable)).sha256;
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024);
}

/** 1 GiB through the spool takes the worker no more memory than 32 MiB. */
export async function largeUploads(say: (line: string) => void): Promise<boolean> {
  await using world = await uploadWorld({ intervalSeconds: 30 });
  const worker = await world.work();
  const pid = worker.process.pid!;
  await delay(2_000);
  const idle = await residentMiB(pid);
  const peaks: number[] = [];
  for (const mebibytes of SIZES_MIB) {
    const peak = await peakWhile(world, pid, mebibytes);
    say(`memory of the worker: idle ${idle} MiB, at most ${peak} for a file of ${mebibytes} MiB`);
    peaks.push(peak);
  }
  console.log(JSON.stringify({ rssMiB: { idle, sizes: SIZES_MIB, peaks } }));
  return Math.max(...peaks) - peaks[0]! < FLAT_MIB;
}
