import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { DeleteObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { ownDatabase } from '../../src/backupSettings.ts';
import { makeBackup } from '../../src/backups/make.ts';
import { openDestination, openSource } from '../../src/backups/open.ts';
import { connectionEnv } from '../../src/backups/programs.ts';
import { type BackupPlace, backupPlace, never, newAddress } from '../../test/support/backups.ts';
import { emptyDatabase, type TestDatabase } from '../../test/support/database.ts';
import { startWorker, temporalNamespace } from '../../test/support/worker.ts';
import { memoryOf } from '../outbox/process.ts';
import type { Bench, BenchRun, Reporter } from '../report.ts';

/** What a verified backup costs beside a bare pg_dump, and what memory a worker needs for backups and drills. */
export const backups: Bench = {
  about: 'backups of a database that is written to, beside pg_dump piped to the same place',
  parts: ['speed', 'worker'],
  onDemand: [],
  run: measureBackups,
};

/** About 240 bytes each, hardly more compressible than what people write. */
const FILL = `CREATE TABLE notes AS SELECT n,
  md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text) || repeat('note ', 20) AS note
  FROM generate_series(1, $1::int) AS n`;
const MIB = 1024 * 1024;

interface Scene {
  reporter: Reporter;
  database: TestDatabase;
  place: BackupPlace;
  source: string;
  bucket: string;
  rounds: number;
}

async function measureBackups({ reporter, quick, parts }: BenchRun): Promise<void> {
  await using database = await emptyDatabase();
  const source = ownDatabase({ databaseUrl: database.url });
  await using place = await backupPlace({ databases: { [source]: database.url } });
  await database.client.query(FILL, [quick ? 100_000 : 2_000_000]);
  const [bucket] = place.settings.destinations.s3!.buckets;
  const scene = { reporter, database, place, source, bucket: bucket!, rounds: quick ? 1 : 3 };
  await using _writer = writeOn(database);
  if (parts.includes('speed')) await measureSpeed(scene);
  if (parts.includes('worker')) await measureWorker(scene);
}

/** A neighbour that writes a hundred rows a second until the end. */
function writeOn(database: TestDatabase): AsyncDisposable {
  const over = new AbortController();
  const writing = (async () => {
    const client = await database.connect();
    while (!over.signal.aborted) {
      await client.query(`INSERT INTO notes SELECT -n, 'late' FROM generate_series(1, 10) AS n`);
      await delay(100);
    }
  })();
  return {
    async [Symbol.asyncDispose]() {
      over.abort();
      await writing;
    },
  };
}

/** In turn, there and back, so that what else the machine does meets all of them. */
async function measureSpeed(scene: Scene): Promise<void> {
  const { reporter, place, bucket } = scene;
  const file = pathToFileURL(path.join(place.directory, 'backups')).href;
  const ways = [
    () => plain(scene, 'pg_dump to a file', [], toFile(place)),
    () => plain(scene, 'pg_dump uncompressed to a file', ['--compress=0'], toFile(place)),
    () => plain(scene, 'pg_dump to S3', [], toS3(scene)),
    () => ours(scene, 'to a file', file),
    () => ours(scene, 'to S3', `s3://${bucket}/bench`),
  ];
  for (const where of ['to a file', 'to S3'])
    for (const what of ['written', 'verified'])
      reporter.compare(`backup ${what} ${where}`, `pg_dump ${where}`, 'of the rate of a bare pg_dump');
  for (let round = 0; round < scene.rounds; round += 1)
    for (const way of round % 2 === 0 ? ways : ways.toReversed()) await way();
}

type Sink = (content: Readable) => Promise<unknown>;

async function plain({ reporter, place, database }: Scene, name: string, args: string[], sink: Sink) {
  const program = path.join(place.settings.pgBinDir!, 'pg_dump');
  const size = await sizeOf(database);
  const begun = performance.now();
  const child: ChildProcessByStdio<null, Readable, null> = spawn(program, ['--format=custom', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: connectionEnv(database.url),
  });
  await sink(child.stdout);
  reporter.emit(name, (size / MIB / (performance.now() - begun)) * 1000, 'MiB/s');
}

const toFile =
  ({ directory }: BackupPlace): Sink =>
  async (content) => {
    const file = path.join(directory, 'dump');
    await pipeline(content, createWriteStream(file, { flush: true }));
    await rm(file);
  };

const toS3 =
  ({ place, bucket }: Scene): Sink =>
  async (content) => {
    const { endpoint, accessKeyId, secretAccessKey } = place.settings.destinations.s3!;
    const credentials = { accessKeyId, secretAccessKey };
    const client = new S3Client({ endpoint, credentials, forcePathStyle: true, region: 'us-east-1' });
    const at = { Bucket: bucket, Key: 'bench/dump' };
    await new Upload({ client, params: { ...at, Body: content } }).done();
    await client.send(new DeleteObjectCommand(at));
    client.destroy();
  };

/** Until all is written, and until all of it was read back. */
async function ours({ reporter, place, source, database }: Scene, where: string, url: string): Promise<void> {
  const destination = await openDestination(url, place.settings);
  const address = newAddress('database', source);
  const size = await sizeOf(database);
  const begun = performance.now();
  let written = 0;
  const onProgress = ({ stage }: { stage: string }) => {
    if (stage === 'verifying' && written === 0) written = performance.now() - begun;
  };
  const order = { destination, address, settings: place.settings };
  await makeBackup(
    { ...order, source: await openSource('database', source, place.settings) },
    { signal: never, onProgress },
  );
  const rate = (ms: number) => (size / MIB / ms) * 1000;
  reporter.emit(`backup written ${where}`, rate(written), 'MiB/s');
  reporter.emit(`backup verified ${where}`, rate(performance.now() - begun), 'MiB/s');
  await destination.remove(address, never);
}

async function sizeOf({ client }: TestDatabase): Promise<number> {
  const { rows } = await client.query<{ size: string }>(
    'SELECT pg_database_size(current_database()) AS size',
  );
  return Number(rows[0]!.size);
}

/** A real worker: a backup to each place and a drill of it, and what memory they needed. */
async function measureWorker({ reporter, database, place, source, bucket }: Scene): Promise<void> {
  await using namespace = await temporalNamespace();
  const file = pathToFileURL(path.join(place.directory, 'backups')).href;
  await using worker = await startWorker({
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_BACKUP_DESTINATION: file,
    SA01_BACKUP_RETENTION: 'all',
    SA01_PG_BIN_DIR: place.settings.pgBinDir!,
  });
  await worker.ready();
  const pid = worker.process.pid!;
  reporter.emit('worker idle', memoryOf(pid).now, 'MiB');
  for (const [where, destination] of Object.entries({ file, S3: `s3://${bucket}/bench-worker` })) {
    const made = await namespace.orchestrator.startBackup({ type: 'database', source, destination });
    const { manifest } = await made.result();
    reporter.emit('worker at most', memoryOf(pid).peak, 'MiB', { after: `backup to ${where}` });
    const drill = await namespace.orchestrator.startRestoreDrill({ backup: manifest!.id });
    const { evidence } = await drill.result();
    if (evidence!.differences.length > 0) throw new Error(JSON.stringify(evidence));
    const rows = manifest!.content.rows!['public.notes']!;
    reporter.emit('worker at most', memoryOf(pid).peak, 'MiB', { after: `drill from ${where}`, rows });
  }
}
