// A worker with all storage tiers on the run's stack, files for it, and looks at what is where that trust none of it.
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  S3Client,
} from '@aws-sdk/client-s3';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import type pg from 'pg';
import { createClient } from 'redis';
import { createUploadSweepActivities } from '../../src/activities/uploadSweep.ts';
import { readConfig } from '../../src/config.ts';
import { openPool } from '../../src/database/postgres.ts';
import { objectKey } from '../../src/database/uploadOutcomes.ts';
import { NOTHING_SWEPT, type Sweep } from '../../src/domain/uploadSweep.ts';
import { type TierName, UPLOAD_TOPIC, type UploadRowState } from '../../src/domain/uploads.ts';
import { queueUpload } from '../../src/queueUpload.ts';
import { openTiers } from '../../src/storage/tiers.ts';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { emptyDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { testKafka } from './kafka.ts';
import { testStack } from './stack.ts';
import { startWorker, temporalNamespace } from './worker.ts';

export interface SentFile {
  key: string;
  filename: string;
  size: number;
  sha256: string;
}

export interface UploadRow {
  key: string;
  state: UploadRowState;
  tier: TierName | null;
  location: string;
  sha256: string;
  touched: TierName[];
  error: string | null;
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export type UploadWorld = Awaited<ReturnType<typeof uploadWorld>>;

/** By default with canaries every second: a tier that is away is known to be within two. */
export async function uploadWorld({ intervalSeconds = 1 } = {}) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const directory = await mkdtemp(path.join(tmpdir(), 'uploads-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const [storageDir, spoolDir] = [path.join(directory, 'storage'), path.join(directory, 'spool')];
  await Promise.all([mkdir(storageDir), mkdir(spoolDir)]);
  const health = path.join(directory, 'health.json');
  const rules = { softIntervalSeconds: 1, graceSeconds: 0 };
  await writeFile(health, JSON.stringify({ intervalSeconds, rules }));
  const env = {
    ...testStack().env(),
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_STORAGE_DIR: storageDir,
    SA01_SPOOL_DIR: spoolDir,
    SA01_HEALTH_CONFIG: health,
  };
  const config = readConfig(env);
  const { s3 } = config;
  const client = new S3Client({
    endpoint: s3!.endpoint,
    forcePathStyle: true,
    region: 'us-east-1',
    // The client writes into it, and the configuration is frozen.
    credentials: { accessKeyId: s3!.accessKeyId, secretAccessKey: s3!.secretAccessKey },
  });
  stack.defer(async () => client.destroy());
  const places = { s3: client, bucket: s3!.bucket, storageDir, redisUrl: config.redisUrl };

  return {
    database,
    namespace,
    env,
    config,
    directory,
    storageDir,
    spoolDir,
    places,

    async work(): Promise<WorkerProcess> {
      const worker = stack.use(await startWorker(env));
      await worker.ready();
      return worker;
    },

    /** Commits an upload of these bytes as any service does: small ones in the message, large ones by the spool. */
    async send(filename: string, bytes: Buffer, on: pg.ClientBase = database.client): Promise<SentFile> {
      const { idempotencyKey, size } = await queueUpload(on, { filename, bytes }, { spoolDir });
      return { key: idempotencyKey, filename, size, sha256: sha256(bytes) };
    },

    /** The rows of these uploads. */
    async rows(sent: SentFile[]): Promise<UploadRow[]> {
      const { rows } = await database.client.query<UploadRow>(
        `SELECT idempotency_key AS key, state, tier, location, sha256, touched_tiers AS touched, last_error AS error
         FROM orchestrator.upload WHERE idempotency_key = ANY ($1)`,
        [sent.map(({ key }) => key)],
      );
      return rows;
    },

    async hurry(sent: SentFile[]): Promise<void> {
      await Promise.all(sent.map(({ key }) => namespace.orchestrator.upload(key).retryNow()));
    },

    /** The janitor, for whom everything is old. */
    async sweepAll(): Promise<Sweep> {
      const pool = openPool(database.url);
      const { sweepUploads } = createUploadSweepActivities({
        ...config,
        pool,
        tiers: openTiers(config),
        stop: new AbortController().signal,
        limits: { stranded: 0, leftovers: 0, done: 0, unknown: 0 },
      });
      const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
      const run = { dryRun: false, sweep: NOTHING_SWEPT };
      const sweep: Sweep = await environment.run(sweepUploads, run);
      await pool.end();
      return sweep;
    },

    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** The topic is the platform's own: the next worker would consume what is there from its beginning. */
export async function deleteUploadTopic(): Promise<void> {
  const admin = testKafka().admin();
  await admin.connect();
  await admin.deleteTopics({ topics: [UPLOAD_TOPIC] }).catch(() => {});
  await eventually('the topic to be gone', async () => !(await admin.listTopics()).includes(UPLOAD_TOPIC));
  await admin.disconnect();
}

type Places = UploadWorld['places'];

export const random = (size: number): Buffer => randomBytes(size);

/** The bytes behind a receipt's location. */
export async function bytesAt({ s3, redisUrl }: Places, location: string): Promise<Buffer> {
  const url = new URL(location);
  if (url.protocol === 'file:') return readFile(fileURLToPath(url));
  if (url.protocol === 's3:') {
    const { Body } = await s3.send(
      new GetObjectCommand({ Bucket: url.hostname, Key: url.pathname.slice(1) }),
    );
    return Buffer.from(await Body!.transformToByteArray());
  }
  const [tier] = openTiers({ s3: undefined, storageDir: undefined, redisUrl });
  const key = /[0-9a-f]{64}$/.exec(location)![0];
  return Buffer.concat(await (await tier!.read(key, new AbortController().signal)).toArray());
}

/** Where copies of these uploads are, finished or not, as the places themselves list them: `tier:name`. */
export async function copiesOf(places: Places, sent: SentFile[]): Promise<string[]> {
  const keys = new Set(sent.map(({ key }) => objectKey(key)));
  const ofThese = (name: string) => keys.has(/[0-9a-f]{64}/.exec(name)?.[0] ?? '');
  return [
    ...(await objects(places)).map((name) => `s3:${name}`),
    ...(await multiparts(places)).map((name) => `s3-parts:${name}`),
    ...(await files(places.storageDir)).map((name) => `filesystem:${name}`),
    ...(await redisKeys(places)).map((name) => `redis:${name}`),
  ].filter(ofThese);
}

export async function objects({ s3, bucket }: Places): Promise<string[]> {
  const found: string[] = [];
  let ContinuationToken: string | undefined;
  do {
    const page = await s3.send(
      new ListObjectsV2Command({ Bucket: bucket, Prefix: 'uploads/', ContinuationToken }),
    );
    found.push(...(page.Contents ?? []).map(({ Key }) => Key!));
    ContinuationToken = page.NextContinuationToken;
  } while (ContinuationToken);
  return found;
}

export async function multiparts({ s3, bucket }: Places): Promise<string[]> {
  const { Uploads } = await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: 'uploads/' }));
  return (Uploads ?? []).map(({ Key }) => Key!);
}

async function files(directory: string): Promise<string[]> {
  const entries = await readdir(path.join(directory, 'uploads'), {
    recursive: true,
    withFileTypes: true,
  }).catch(() => []);
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
}

async function redisKeys({ redisUrl }: Places): Promise<string[]> {
  const client = createClient({ url: redisUrl });
  client.on('error', () => {});
  await client.connect();
  const found: string[] = [];
  for await (const names of client.scanIterator({ MATCH: 'upload*', COUNT: 1_000 })) found.push(...names);
  client.destroy();
  return found;
}
