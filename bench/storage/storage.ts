import { rm } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { S3Tier } from '../../src/storage/s3.ts';
import { UploadSources } from '../../src/storage/uploadSources.ts';
import { never, stackS3 } from '../../test/support/storage.ts';
import type { Bench, BenchRun, Reporter } from '../report.ts';
import {
  bareClient,
  filesPerSecond,
  makeFiles,
  type Put,
  putBare,
  type TestFile,
  uploadBare,
} from './files.ts';

/** How uploads do beside the S3 client alone, which neither hashes nor looks afterwards. */
export const storage: Bench = {
  about: 'uploads: storing in S3, verified, beside a bare loop of the S3 client',
  parts: ['tier', 'whole'],
  onDemand: ['large'],
  async run({ reporter, quick, parts }: BenchRun) {
    if (parts.includes('tier')) await measureTier(reporter, quick ? 2 : 8);
    if (!parts.includes('whole') && !parts.includes('large')) return;
    const { measureWholeWay } = await import('./wholeWay.ts');
    if (parts.includes('whole')) await measureWholeWay(reporter, 'small', quick ? 1 : 4);
    if (parts.includes('large')) await measureWholeWay(reporter, 'large', quick ? 1 : 3);
  },
};

const spooled = ({ directory, path: file, facts }: TestFile) =>
  new UploadSources({ spoolDir: directory, allowed: [], s3: undefined }).open(
    pathToFileURL(file).href,
    facts.size,
    never,
  );

const CONCURRENCY = 4;
const FILES = [
  // So many that each way meets the collector of its own garbage.
  { title: '700 kB', size: 700_000, count: 300 },
  { title: '6 MiB', size: 6 * 1024 * 1024, count: 48 },
];

/** The S3 tier of uploads. */
async function measureTier(reporter: Reporter, rounds: number): Promise<void> {
  const settings = stackS3();
  const client = bareClient(settings);
  const tier = new S3Tier(settings);
  const ways: Record<string, Put> = {
    // From the spool, as the worker does.
    store: (file, key) => tier.store(key, () => spooled(file), file.facts, never),
    'bare PutObject': putBare(client, settings),
    'bare Upload': uploadBare(client, settings),
  };
  for (const { title, size, count } of FILES) {
    const files = await makeFiles(size, count);
    for (const bare of ['bare PutObject', 'bare Upload'])
      reporter.compare(`store ${title}`, `${bare} ${title}`, 'of the bare rate');
    // Turn about, so that what else the machine does meets all of them; the first round warms up.
    for (let round = 0; round <= rounds; round += 1)
      for (const [way, put] of Object.entries(ways)) {
        const rate = await filesPerSecond(files, put, { client, settings, atOnce: CONCURRENCY });
        if (round > 0) reporter.emit(`${way} ${title}`, rate, 'files/s', { concurrency: CONCURRENCY });
      }
    await rm(files[0]!.directory, { recursive: true });
  }
}
