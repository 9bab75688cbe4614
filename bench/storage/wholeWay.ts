// From the commit of a message to the row that says where the file is, by a worker of its own, and what bounds that.
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { Client } from '@temporalio/client';
import { OrchestratorClient } from '../../src/client.ts';
import { MAX_UPLOADS, type UploadReceipt } from '../../src/domain/uploads.ts';
import { queueUpload } from '../../src/queueUpload.ts';
import { eventually } from '../../test/support/eventually.ts';
import { type UploadWorld, uploadWorld } from '../../test/support/uploadWorld.ts';
import { temporalNamespace } from '../../test/support/worker.ts';
import { runWorkflows } from '../../test/support/workflows.ts';
import type { Reporter } from '../report.ts';
import { bareClient, filesPerSecond, makeFiles, putBare, type TestFile } from './files.ts';

const MEBIBYTE = 1024 * 1024;
const FILES = {
  small: [
    { title: '700 kB', size: 700_000, count: 100 },
    // The first size that goes by the spool.
    { title: '700,001 bytes', size: 700_001, count: 200 },
    { title: '6 MiB', size: 6 * MEBIBYTE, count: 60 },
  ],
  large: [
    { title: '16 MiB', size: 16 * MEBIBYTE, count: 48 },
    { title: '64 MiB', size: 64 * MEBIBYTE, count: 16 },
    { title: '300 MiB', size: 300 * MEBIBYTE, count: 8 },
  ],
};
const WORKFLOWS = 500;

export async function measureWholeWay(
  reporter: Reporter,
  sizes: keyof typeof FILES,
  rounds: number,
): Promise<void> {
  await using world = await uploadWorld({ intervalSeconds: 30 });
  await using worker = await world.work();
  const client = bareClient(world.config.s3!);
  for (const { title, size, count } of FILES[sizes]) {
    for (const way of ['taken', 'whole way'])
      reporter.compare(`${way} ${title}`, `bare beside ${title}`, 'of the bare rate');
    // The first round warms up.
    for (let round = 0; round <= rounds; round += 1) {
      // Files of their own: the same content would be one upload.
      const files = await makeFiles(size, count);
      const put = putBare(client, world.config.s3!);
      const bare = await filesPerSecond(files, put, {
        client,
        settings: world.config.s3!,
        atOnce: MAX_UPLOADS,
      });
      const { taken, stored } = await send(world, files);
      await rm(files[0]!.directory, { recursive: true });
      if (round === 0) continue;
      reporter.emit(`bare beside ${title}`, bare, 'files/s', { concurrency: MAX_UPLOADS });
      reporter.emit(`taken ${title}`, taken, 'files/s');
      reporter.emit(`whole way ${title}`, stored, 'files/s');
    }
  }
  await worker.end();
  if (sizes === 'large') return;
  for (let round = 0; round <= rounds; round += 1) {
    const rate = await workflowsPerSecond(WORKFLOWS);
    if (round > 0) reporter.emit('uploadRetry that does nothing', rate, 'workflows/s');
  }
}

/** Commits them all at once. Files per second until the last one has its row, and until the last one is stored. */
async function send(world: UploadWorld, files: TestFile[]): Promise<{ taken: number; stored: number }> {
  const client = await world.database.connect();
  const batch = randomUUID();
  await client.query('BEGIN');
  const keys: string[] = [];
  for (const { path: file } of files) {
    const upload = { filename: `${batch} ${file}`, bytes: { file } };
    keys.push((await queueUpload(client, upload, world)).idempotencyKey);
  }
  const begun = performance.now();
  await client.query('COMMIT');
  const rate = () => (files.length * 1000) / (performance.now() - begun);
  let taken: number | undefined;
  const isStored = async () => {
    const { rows } = await client.query<{ taken: number; stored: number }>(
      `SELECT count(*)::int AS taken, count(*) FILTER (WHERE state = 'stored')::int AS stored
       FROM orchestrator.upload WHERE idempotency_key = ANY ($1)`,
      [keys],
    );
    if (rows[0]!.taken === keys.length) taken ??= rate();
    return rows[0]!.stored === keys.length;
  };
  await eventually('all stored', isStored, { withinMs: 300_000, everyMs: 50 });
  return { taken: taken!, stored: rate() };
}

/** What Temporal alone allows: the same workflows, started as the consumer does, whose activity does nothing. */
async function workflowsPerSecond(count: number): Promise<number> {
  await using namespace = await temporalNamespace();
  let done = 0;
  const beginUpload = async () => {
    done += 1;
    return { accepted, stored: { kind: 'stored', receipt: accepted.receipt, better: [], leftovers: [] } };
  };
  await using workers = await runWorkflows(namespace.name, 'bench', { beginUpload });
  const { connection } = workers;
  const client = new OrchestratorClient(new Client({ connection, namespace: namespace.name }), 'bench');
  const keys = Array.from({ length: count }, (_, number) => `empty-${number}`).values();
  const start = async () => {
    for (const key of keys) await client.startUpload(key, key, { eagerly: true });
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: 10 }, start));
  await eventually('all done', () => done === count, { withinMs: 120_000, everyMs: 20 });
  return (count * 1000) / (performance.now() - begun);
}

const receipt: UploadReceipt = {
  filename: 'nothing',
  tier: 's3',
  location: 's3://nothing/nothing',
  size: 0,
  sha256: '0'.repeat(64),
  durability: 'nothing',
  attempts: 1,
  stored_at: '2026-11-23T12:00:00.000Z',
  promoted_at: null,
};
const accepted = {
  filename: 'nothing',
  attempts: 0,
  lastError: null,
  receipt,
  better: [],
  leftovers: [],
  bytesTaskQueue: 'none',
};
