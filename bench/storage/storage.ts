import { createReadStream } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { DeleteObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { type S3Settings, S3Tier } from '../../src/storage/s3.ts';
import type { StoredFacts } from '../../src/storage/tier.ts';
import { contentOf, factsOf, never, newKey, stackS3 } from '../../test/support/storage.ts';
import type { Bench, BenchRun, Reporter } from '../report.ts';

/** How the S3 tier of uploads does beside the S3 client alone, which neither hashes nor looks afterwards. */
export const storage: Bench = {
  about: 'uploads: storing in S3, verified, beside a bare loop of the S3 client',
  parts: ['s3'],
  onDemand: [],
  run: ({ reporter, quick }: BenchRun) => measureStorage(reporter, quick ? 2 : 8),
};

const CONCURRENCY = 4;
const FILES = [
  { title: '700 kB', size: 700_000, count: 100 },
  { title: '6 MiB', size: 6 * 1024 * 1024, count: 24 },
];

interface File {
  path: string;
  facts: StoredFacts;
}

/** Puts one file under a key that is new. */
type Put = (file: File, key: string) => Promise<unknown>;

async function measureStorage(reporter: Reporter, rounds: number): Promise<void> {
  const settings = stackS3();
  const client = bareClient(settings);
  const tier = new S3Tier(settings);
  const ways: Record<string, Put> = {
    store: (file, key) => tier.store(key, async () => createReadStream(file.path), file.facts, never),
    'bare PutObject': async (file, key) =>
      client.send(new PutObjectCommand({ ...at(settings, key), Body: await readFile(file.path) })),
    'bare Upload': (file, key) =>
      new Upload({ client, params: { ...at(settings, key), Body: createReadStream(file.path) } }).done(),
  };
  for (const { title, size, count } of FILES) {
    const directory = await mkdtemp(path.join(tmpdir(), 'bench-storage-'));
    const files = await Promise.all(
      Array.from({ length: count }, (_, index) => write(directory, index, size)),
    );
    for (const bare of ['bare PutObject', 'bare Upload'])
      reporter.compare(`store ${title}`, `${bare} ${title}`, 'of the bare rate');
    // Turn about, so that what else the machine does meets all of them; the first round warms up.
    for (let round = 0; round <= rounds; round += 1)
      for (const [way, put] of Object.entries(ways)) {
        const rate = await filesPerSecond(files, put, client, settings);
        if (round > 0) reporter.emit(`${way} ${title}`, rate, 'files/s', { concurrency: CONCURRENCY });
      }
    await rm(directory, { recursive: true });
  }
}

async function filesPerSecond(
  files: File[],
  put: Put,
  client: S3Client,
  settings: S3Settings,
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
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  const seconds = (performance.now() - begun) / 1000;
  for (const key of keys) await client.send(new DeleteObjectCommand(at(settings, key)));
  return files.length / seconds;
}

const at = ({ bucket }: S3Settings, key: string) => ({ Bucket: bucket, Key: `uploads/${key}` });

async function write(directory: string, index: number, size: number): Promise<File> {
  const bytes = contentOf(size);
  const file = path.join(directory, String(index));
  await writeFile(file, bytes);
  return { path: file, facts: factsOf(bytes) };
}

/** As the SDK comes. */
function bareClient({ endpoint, accessKeyId, secretAccessKey }: S3Settings): S3Client {
  const credentials = { accessKeyId, secretAccessKey };
  return new S3Client({ endpoint, credentials, forcePathStyle: true, region: 'us-east-1' });
}
