// Where a worker that makes a backup is held, so that a test can kill it at that step for sure: at one call to the
// destination, or at a row in Postgres.
import { mkdir, readFile, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { s3Client } from '../../src/backups/s3.ts';
import { filesIn } from './backupWorld.ts';
import type { TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { FaultProxy } from './faultProxy.ts';
import { testStack } from './stack.ts';
import { s3FilesBelow, stackS3, unfinished } from './storage.ts';
import { StorageProxy, type StorageRequest } from './storageProxy.ts';

/** A call to the destination: half of a file is written, it gets its name, it is read, it is removed. */
export interface DestinationCall {
  when: 'before' | 'after';
  call: 'write' | 'name' | 'read' | 'remove';
  /** Its name, as a regular expression. */
  file: string;
}

export interface HeldFiles extends DestinationCall {
  tell: string;
}

/** A worker with `env` is held, until this is disposed of. */
export interface Hold extends AsyncDisposable {
  env: Record<string, string>;
  /** Waits until it is. */
  reached(): Promise<unknown>;
}

/** A destination at which workers can be held. Files are named by their paths below it. */
export interface HoldingPlace extends AsyncDisposable {
  kind: 'filesystem' | 's3';
  url: string;
  env: Record<string, string>;
  hold(call: DestinationCall): Hold;
  /** All that lies there, `unfinished` what has not got its name yet. */
  files(): Promise<string[]>;
  read(file: string): Promise<Buffer>;
  /** Puts a file there, as old as that. */
  lay(file: string, since: Date): Promise<void>;
}

/** The worker makes the directory. */
export function filesPlace(directory: string): HoldingPlace {
  let holds = 0;
  return {
    kind: 'filesystem',
    url: pathToFileURL(directory).href,
    env: {},
    hold(call) {
      const tell = `${directory}-held-${++holds}`;
      const held: HeldFiles = { ...call, tell };
      const preload = pathToFileURL(path.join(import.meta.dirname, 'heldFiles.ts')).href;
      return {
        env: { HOLD_FILES: JSON.stringify(held), NODE_OPTIONS: `--import=${preload}` },
        reached: () => eventually(said(call), () => readFile(tell).then(() => true)),
        async [Symbol.asyncDispose]() {},
      };
    },
    async files() {
      const names = await filesIn(directory);
      return names.map((name) => name.replace(/(.*)\.partial-.*/, (_, file) => unfinished(file)));
    },
    read: (file) => readFile(path.join(directory, file)),
    async lay(file, since) {
      const lying = path.join(directory, file);
      await mkdir(path.dirname(lying), { recursive: true });
      await writeFile(lying, 'half of it');
      for (const one of [lying, path.dirname(lying)]) await utimes(one, since, since);
    },
    async [Symbol.asyncDispose]() {},
  };
}

/** Below a prefix of its own, by way of a proxy. */
export async function s3Place(): Promise<HoldingPlace> {
  const proxy = await StorageProxy.to(stackS3().endpoint);
  const Bucket = stackS3().bucket;
  const prefix = `backups-${crypto.randomUUID()}`;
  const url = `s3://${Bucket}/${prefix}`;
  const client = s3Client(stackS3());
  return {
    kind: 's3',
    url,
    env: { SA01_S3_ENDPOINT: proxy.endpoint },
    hold(call) {
      const how = call.when === 'before' ? 'hangs' : 'keeps response';
      proxy.does((request) => (isCall(request, call) ? how : undefined));
      return {
        env: {},
        reached: () => eventually(said(call), () => proxy.held > 0),
        [Symbol.asyncDispose]: async () => proxy.does(() => undefined),
      };
    },
    files: () => s3FilesBelow(url),
    async read(file) {
      const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: `${prefix}/${file}` }));
      return Buffer.from(await Body!.transformToByteArray());
    },
    async lay(file, since) {
      const Key = `${prefix}/${file}`;
      await client.send(new PutObjectCommand({ Bucket, Key, Body: 'half of it' }));
      // Where the stack's server keeps it; its time is the object's.
      await utimes(path.join(testStack().directory, 's3', 'data', Bucket, Key), since, since);
    },
    [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
  };
}

const said = ({ when, call, file }: DestinationCall): string => `a worker ${when} the ${call} of ${file}`;

function isCall({ method, url }: StorageRequest, { call, file }: DestinationCall): boolean {
  const { pathname, searchParams } = new URL(url, 'http://s3');
  if (!new RegExp(`/(${file})$`).test(pathname)) return false;
  if (call === 'write') return method === 'PUT' && searchParams.get('partNumber') === '2';
  if (call === 'read') return method === 'GET';
  if (call === 'remove') return method === 'DELETE';
  return method === 'PUT'
    ? !searchParams.has('partNumber')
    : method === 'POST' && searchParams.has('uploadId');
}

/** From now on `holdRows` can hold whoever writes a row of orchestrator.backup. */
export async function makeRowsHoldable({ client }: TestDatabase): Promise<void> {
  await client.query(
    `CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN PERFORM pg_advisory_xact_lock_shared(8, hashtext(TG_OP || ' ' || NEW.state)); RETURN NEW; END $$;
     CREATE TRIGGER stay BEFORE INSERT OR UPDATE ON orchestrator.backup FOR EACH ROW EXECUTE FUNCTION stay()`,
  );
}

/** Holds whoever makes this `change`, as `INSERT running`. What has been asked for is done when the hold ends. */
export async function holdRows(database: TestDatabase, change: string): Promise<Hold> {
  const holder = await database.connect();
  await holder.query('SELECT pg_advisory_lock(8, hashtext($1))', [change]);
  const waiting = `SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`;
  return {
    env: {},
    reached: () => eventually(change, async () => (await database.client.query(waiting)).rowCount === 1),
    [Symbol.asyncDispose]: () => holder.end(),
  };
}

/** pg_dump waits for a table. */
export async function holdTable(database: TestDatabase, table: string): Promise<Hold> {
  const holder = await database.connect();
  await holder.query(`BEGIN; LOCK ${table} IN ACCESS EXCLUSIVE MODE`);
  const waiting = `SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'LOCK TABLE%' AND wait_event_type = 'Lock'`;
  return {
    env: {},
    reached: () => eventually('pg_dump', async () => (await database.client.query(waiting)).rowCount === 1),
    [Symbol.asyncDispose]: () => holder.end(),
  };
}

/** The backup is verified, and the worker cannot tell Temporal. */
export async function holdAnswer(database: TestDatabase): Promise<Hold> {
  await using opening = new AsyncDisposableStack();
  const rows = opening.use(await holdRows(database, 'INSERT verified'));
  const temporal = opening.use(await FaultProxy.to(testStack().ports.temporal));
  const opened = opening.move();
  return {
    env: { SA01_TEMPORAL_HOST: `127.0.0.1:${temporal.port}` },
    async reached() {
      await rows.reached();
      void temporal.stall(['request'], 60_000);
      const before = await verified(database);
      await rows[Symbol.asyncDispose]();
      await eventually('the row', async () => (await verified(database)) > before);
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

const verified = async ({ client }: TestDatabase): Promise<number> =>
  (await client.query(`SELECT FROM orchestrator.backup WHERE state = 'verified'`)).rowCount!;
