import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { s3Client } from '../../src/backups/s3.ts';
import type { S3Settings } from '../../src/storage/s3Client.ts';
import type { StorageTier, StoredFacts } from '../../src/storage/tier.ts';
import { eventually } from './eventually.ts';
import { testStack } from './stack.ts';

export const never = new AbortController().signal;

export const newKey = (): string => randomBytes(32).toString('hex');

export const contentOf = (size: number): Buffer => randomBytes(size);

export const factsOf = (bytes: Buffer, facts: Partial<StoredFacts> = {}): StoredFacts => ({
  size: bytes.length,
  sha256: createHash('sha256').update(bytes).digest('hex'),
  filename: 'report.pdf',
  contentType: 'application/pdf',
  ...facts,
});

/** A source that gives the bytes in pieces, as files and sockets do. */
export const sourceOf = (bytes: Buffer) => async (): Promise<Readable> => {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += 65_536) pieces.push(bytes.subarray(at, at + 65_536));
  return Readable.from(pieces, { objectMode: false });
};

/** Gives `bytes`, says so, and then nothing more. */
export function stallingSource(bytes: Buffer): { open: () => Promise<Readable>; stalled: Promise<void> } {
  const stalled = Promise.withResolvers<void>();
  async function* give() {
    yield* await sourceOf(bytes)();
    stalled.resolve();
    await new Promise(() => {});
  }
  return { open: async () => Readable.from(give(), { objectMode: false }), stalled: stalled.promise };
}

export const flipped = (bytes: Buffer): Buffer => {
  const other = Buffer.from(bytes);
  other[Math.floor(other.length / 2)]! ^= 1;
  return other;
};

/** A source that nobody may need. */
export const unneeded = (): Promise<Readable> => Promise.reject(new Error('the source was read'));

export const kept = async (tier: StorageTier, key: string): Promise<Buffer> =>
  buffer(await tier.read(key, never));

/** Waits until an S3 tier knows that its server honours conditions: then it puts before it looks. */
export async function learnt(tier: StorageTier): Promise<void> {
  const [key, bytes] = [newKey(), contentOf(1)];
  await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  const readsBeforeItLooks = async () => {
    let wasRead = false;
    const open = () => {
      wasRead = true;
      return sourceOf(bytes)();
    };
    await tier.store(key, open, factsOf(bytes), never);
    return wasRead;
  };
  await eventually('the tier knows that conditions are honoured', readsBeforeItLooks, { everyMs: 5 });
  await tier.remove(key, never);
}

/** What the tier has of unfinished uploads of this key. */
export const strandedOf = async (tier: StorageTier, key: string) =>
  (await tier.stranded(Date.now() + 60_000, never)).filter(({ name }) => name.includes(key));

export function stackS3(): S3Settings {
  const env = testStack().env();
  return {
    endpoint: env.SA01_S3_ENDPOINT!,
    bucket: env.SA01_S3_BUCKET!,
    accessKeyId: env.AWS_ACCESS_KEY_ID!,
    secretAccessKey: env.AWS_SECRET_ACCESS_KEY!,
  };
}

export const unfinished = (file: string): string => `${file} (unfinished)`;

/** The objects below an `s3://` URL, by their names there, and the uploads that are `unfinished`. */
export async function s3FilesBelow(url: string): Promise<string[]> {
  const { hostname, pathname } = new URL(url);
  const prefix = `${pathname.slice(1)}/`;
  const there = { Bucket: hostname, Prefix: prefix };
  const client = s3Client(stackS3());
  const { Contents = [] } = await client.send(new ListObjectsV2Command(there));
  const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand(there));
  const own = (key = '') => key.slice(prefix.length);
  return [...Contents.map(({ Key }) => own(Key)), ...Uploads.map(({ Key }) => unfinished(own(Key)))].sort();
}

/** A directory that goes with its user. */
export async function storageDirectory(): Promise<{ root: string } & AsyncDisposable> {
  const root = await mkdtemp(path.join(tmpdir(), 'storage-'));
  return { root, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
}
