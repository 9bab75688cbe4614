// Files to be stored, and the bare loop of the S3 client that the rest is measured against.
import { createReadStream } from 'node:fs';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { DeleteObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import type { S3Settings } from '../../src/storage/s3Client.ts';
import type { StoredFacts } from '../../src/storage/tier.ts';
import { contentOf, factsOf, newKey } from '../../test/support/storage.ts';

export interface TestFile {
  path: string;
  /** The directory of all of them. */
  directory: string;
  facts: StoredFacts;
}

export async function makeFiles(size: number, count: number): Promise<TestFile[]> {
  const directory = await mkdtemp(path.join(tmpdir(), 'bench-storage-'));
  const make = async (index: number) => {
    const bytes = contentOf(size);
    const file = path.join(directory, String(index));
    await writeFile(file, bytes);
    return { path: file, directory, facts: factsOf(bytes) };
  };
  const files: TestFile[] = [];
  // One after the other: large ones need not fit into memory all at once.
  for (let index = 0; index < count; index += 1) files.push(await make(index));
  return files;
}

/** Puts one file under a key that is new. */
export type Put = (file: TestFile, key: string) => Promise<unknown>;

interface Loop {
  client: S3Client;
  settings: S3Settings;
  atOnce: number;
}

/** Puts each file once, `atOnce` at a time, and removes them again afterwards. */
export async function filesPerSecond(
  files: TestFile[],
  put: Put,
  { client, settings, atOnce }: Loop,
): Promise<number> {
  const keys: string[] = [];
  const waiting = [...files];
  const work = async () => {
    for (let file = waiting.pop(); file; file = waiting.pop()) {
      const key = newKey();
      keys.push(key);
      await put(file, key);
    }
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: atOnce }, work));
  const seconds = (performance.now() - begun) / 1000;
  for (const key of keys) await client.send(new DeleteObjectCommand(at(settings, key)));
  return files.length / seconds;
}

export const at = ({ bucket }: S3Settings, key: string) => ({ Bucket: bucket, Key: `uploads/${key}` });

/** As the SDK comes. */
export function bareClient({ endpoint, accessKeyId, secretAccessKey }: S3Settings): S3Client {
  const credentials = { accessKeyId, secretAccessKey };
  return new S3Client({ endpoint, credentials, forcePathStyle: true, region: 'us-east-1' });
}

/** What S3's own users read into memory; larger files go in parts. */
const IN_MEMORY = 8 * 1024 * 1024;

/** Neither hashes nor looks before or afterwards. */
export const putBare =
  (client: S3Client, settings: S3Settings): Put =>
  async (file, key) =>
    file.facts.size > IN_MEMORY
      ? uploadBare(client, settings)(file, key)
      : client.send(new PutObjectCommand({ ...at(settings, key), Body: await readFile(file.path) }));

/** In parts, as lib-storage does it. */
export const uploadBare =
  (client: S3Client, settings: S3Settings): Put =>
  (file, key) =>
    new Upload({ client, params: { ...at(settings, key), Body: createReadStream(file.path) } }).done();
