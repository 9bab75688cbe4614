// Uploads through the topic and the spool, while S3 comes and goes and the worker is killed with -9.
import { readdir } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { eventually } from '../support/eventually.ts';
import { testStack } from '../support/stack.ts';
import {
  bytesAt,
  copiesOf,
  random,
  type SentFile,
  sha256,
  type UploadRow,
  type UploadWorld,
  uploadWorld,
} from '../support/uploadWorld.ts';

export interface StormPlan {
  uploads: number;
  kills: number;
}

export interface StormVerdict {
  sent: number;
  bytes: number;
  seconds: number;
  kills: number;
  /** How often S3 was taken away. */
  outages: number;
  /** Of those that are in S3 at the end: how many were elsewhere before. */
  promoted: number;
  /** Not in S3 by their row, or read back as other bytes. */
  missing: number;
  corrupt: number;
  /** Copies that are there beside the one in S3, after the janitor. */
  beside: number;
  spoolFiles: number;
  /** Copies and files of the spool that the janitor found. */
  swept: number;
  /** Told twice on upload.receipts for one tier, or not at all. */
  receiptsAmiss: number;
  letters: number;
}

export const holds = (verdict: StormVerdict): boolean => {
  const { missing, corrupt, beside, spoolFiles, receiptsAmiss, letters, outages, promoted } = verdict;
  return (
    missing + corrupt + beside + spoolFiles + receiptsAmiss + letters === 0 && outages > 0 && promoted > 0
  );
};

const KIB = 1024;
const MIB = 1024 * KIB;
const SENDERS = 4;

/** Of 100 uploads: many small ones, some at the edge of what a message carries, a few in the spool. */
function sizeOf(number: number): number {
  const at = number % 100;
  const part = Math.random();
  if (at < 5) return 0;
  if (at < 10) return 1;
  if (at < 80) return Math.ceil(part * 20 * KIB);
  if (at < 92) return Math.ceil(part * 300 * KIB);
  if (at < 95) return 700_000;
  return at < 98 ? 700_001 : 6 * MIB;
}

export async function uploadStorm(plan: StormPlan, say: (line: string) => void): Promise<StormVerdict> {
  await using world = await uploadWorld({ intervalSeconds: 5 });
  const started = performance.now();
  let worker = await world.work();
  const sent: SentFile[] = [];
  const sending = sendAll(world, plan.uploads, sent);
  const ended = new AbortController();
  const flapping = flapS3(ended.signal, say);
  try {
    for (let kill = 1; kill <= plan.kills; kill += 1)
      worker = await killAt(world, worker, Math.floor((plan.uploads * kill) / (plan.kills + 1)), say);
    await sending;
  } finally {
    ended.abort();
  }
  const outages = await flapping;
  say(`all ${sent.length} are sent, S3 stays; waiting for the last to be in S3`);
  await eventually('all in S3', () => allInS3(world, sent), {
    withinMs: 1_200_000,
    everyMs: 10_000,
  });
  const seconds = Math.round((performance.now() - started) / 1000);
  return { ...(await judge(world, sent, say)), seconds, kills: plan.kills, outages };
}

async function sendAll(world: UploadWorld, uploads: number, sent: SentFile[]): Promise<void> {
  const numbers = Array.from({ length: uploads }, (_, number) => number).values();
  const sender = async () => {
    const client = await world.database.connect();
    for (const number of numbers) {
      sent.push(await world.send(`file ${number}.bin`, random(sizeOf(number)), client));
      await delay(100);
    }
  };
  await Promise.all(Array.from({ length: SENDERS }, sender));
}

/** Takes S3 away for 2 to 6 seconds, and gives it back for as long, until the end. Returns how often. */
async function flapS3(end: AbortSignal, say: (line: string) => void): Promise<number> {
  const moment = () => delay(2_000 + Math.random() * 4_000, undefined, { signal: end }).catch(() => {});
  let outages = 0;
  while (!end.aborted) {
    await moment();
    if (end.aborted) break;
    testStack().signal('s3', 'SIGKILL');
    outages += 1;
    await moment();
    await testStack().start(['s3']);
  }
  say(`S3 was away ${outages} times`);
  return outages;
}

async function killAt(
  world: UploadWorld,
  worker: WorkerProcess,
  stored: number,
  say: (line: string) => void,
): Promise<WorkerProcess> {
  const count = () => countStored(world);
  await eventually(`${stored} stored`, async () => (await count()) >= stored, { withinMs: 900_000 });
  await worker.end('SIGKILL');
  say(`worker killed with -9 when ${await count()} were stored`);
  return world.work();
}

async function countStored({ database }: UploadWorld): Promise<number> {
  const { rows } = await database.client.query<{ stored: number }>(
    'SELECT count(*)::int AS stored FROM orchestrator.upload WHERE tier IS NOT NULL',
  );
  return rows[0]!.stored;
}

const isInS3 = ({ state, tier }: UploadRow): boolean => tier === 's3' && /^(stored|promoted)$/.test(state);

/** Those that wait for their next try are hurried: that is minutes away by now. */
async function allInS3(world: UploadWorld, sent: SentFile[]): Promise<boolean> {
  const rows = await world.rows(sent);
  const open = new Set(rows.filter((row) => !isInS3(row)).map(({ key }) => key));
  if (rows.length === sent.length && open.size === 0) return true;
  const waiting = sent.filter(({ key }) => open.has(key)).slice(0, 300);
  await world.hurry(waiting).catch(() => {});
  return false;
}

async function judge(
  world: UploadWorld,
  sent: SentFile[],
  say: (line: string) => void,
): Promise<Omit<StormVerdict, 'seconds' | 'kills' | 'outages'>> {
  const { rows: amiss } = await world.database.client.query(
    `SELECT idempotency_key, state, tier, tiers, touched_tiers, stored_at, promoted_at
     FROM orchestrator.upload LEFT JOIN (
       SELECT payload->>'idempotency_key' AS key, array_agg(payload->>'tier') AS tiers
       FROM core_outboxmessage WHERE topic = 'upload.receipts' GROUP BY 1) AS told ON told.key = idempotency_key
     WHERE tiers IS NULL OR NOT tier = ANY (tiers)
       OR cardinality(tiers) <> (SELECT count(DISTINCT its) FROM unnest(tiers) AS its)`,
  );
  const { rows: letters } = await world.database.client.query(
    'SELECT original_topic, idempotency_key, error_type, error_message, created_at FROM core_deadlettermessage',
  );
  for (const row of [...amiss, ...letters].slice(0, 20)) say(JSON.stringify(row));
  const rows = new Map((await world.rows(sent)).map((row) => [row.key, row]));
  let corrupt = 0;
  for (const file of sent) {
    const row = rows.get(file.key);
    const bytes = row && (await bytesAt(world.places, row.location).catch(() => undefined));
    if (!bytes || bytes.length !== file.size || sha256(bytes) !== file.sha256) corrupt += 1;
  }
  await eventually('the copies below to be gone', async () =>
    (await world.rows(sent)).every(({ touched }) => touched.join() === 's3'),
  );
  const { swept, unreachable } = await world.sweepAll();
  if (Object.keys(unreachable).length > 0) throw new Error(JSON.stringify(unreachable));
  const all = [...rows.values()];
  return {
    sent: new Set(sent.map(({ key }) => key)).size,
    bytes: sent.reduce((sum, { size }) => sum + size, 0),
    promoted: all.filter(({ state }) => state === 'promoted').length,
    missing: sent.filter(({ key }) => !isInS3(rows.get(key) ?? NOWHERE)).length,
    corrupt,
    beside: (await copiesOf(world.places, sent)).length - all.length,
    spoolFiles: (await readdir(world.spoolDir)).length,
    swept: Object.values(swept).reduce((sum, its) => sum + its, 0),
    receiptsAmiss: amiss.length,
    letters: letters.length,
  };
}

const NOWHERE: UploadRow = {
  key: '',
  state: 'waiting',
  tier: null,
  location: '',
  sha256: '',
  touched: [],
  error: null,
};
