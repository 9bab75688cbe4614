import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { lstat, mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { activityInfo, cancellationSignal, log } from '@temporalio/activity';
import type { Client } from '@temporalio/client';
import type pg from 'pg';
import { DamagedBackup } from '../backups/names.ts';
import { openDestination } from '../backups/open.ts';
import { RdbCheck } from '../backups/rdb.ts';
import { type RestoreOrder, restoreDatabase, restoreFile, restoreTree } from '../backups/restore.ts';
import type { BackupSettings } from '../backups/settings.ts';
import { watched } from '../backups/watchdog.ts';
import { findBackup } from '../database/backups.ts';
import { runDrillChecks } from '../database/drillChecks.ts';
import { connect, disconnect, inTransaction, withClient } from '../database/postgres.ts';
import {
  createScratch,
  type DrillRecord,
  dropScratch,
  isScratchName,
  recordDrill,
  SCRATCH_KEPT_MS,
  scratchBegan,
  scratchName,
  scratchNames,
} from '../database/restoreDrills.ts';
import {
  type BackupProgress,
  type CataloguedBackup,
  type CheckOutcome,
  compareRows,
  type DrillCheck,
  type DrillEvidence,
  type RestoreDrillInput,
} from '../domain/backups.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { ended, ProgressReporter, told } from './backupSteps.ts';
import { eventOf, tell } from './backups.ts';

export interface RestoreDrillDependencies {
  pool: pg.Pool;
  /** Scratch databases are made on its server; its role needs CREATEDB. */
  databaseUrl: string;
  settings: BackupSettings;
  /** Asked in each database that was restored. */
  checks: readonly DrillCheck[];
  /** Where directories are restored to, and removed again. */
  scratchDirectory: string;
  stop: AbortSignal;
  temporal: Client;
}

/** The short ones. */
export function createRestoreDrillActivities({ pool }: Pick<RestoreDrillDependencies, 'pool'>) {
  return {
    /** The verified backup of this id, or the newest of the type and source; the type is by default a database. */
    chooseBackup: ({ backup, source, type: asked }: RestoreDrillInput): Promise<CataloguedBackup> =>
      told(async () => {
        const type = asked ?? 'database';
        const ask = { id: backup ?? null, source: source ?? null, type: backup ? null : type };
        const found = await findBackup(pool, ask);
        const wanted = backup ? `the id ${backup}` : `the type ${type}${source ? ` of ${source}` : ''}`;
        if (!found) throw new OrchestratorError('drill_failed', `there is no verified backup of ${wanted}`);
        return found;
      }),

    /** Keeps the evidence, and tells what came of it. */
    recordDrill: (drill: DrillRecord): Promise<void> =>
      told(() =>
        withClient(pool, (client) =>
          inTransaction(client, async () => {
            await recordDrill(client, drill);
            const { backup, type, source, destination, error, passed, endedAt } = drill;
            const what = { id: backup, type: type ?? '', source: source ?? '', destination };
            await tell(client, `drill:${drill.id}`, {
              ...eventOf(passed ? 'drill.passed' : 'drill.failed', what, endedAt),
              error,
            });
          }),
        ),
      ),
  };
}

export type RestoreDrillActivities = ReturnType<typeof createRestoreDrillActivities>;

/** The long one. */
export function createDrillActivities(dependencies: RestoreDrillDependencies) {
  return {
    /**
     * Restores the backup to a scratch database or directory, compares it with its manifest, runs the checks, and drops it
     * again. What a killed try of the same drill left goes first, and what others left more than a day ago.
     */
    async drillBackup(backup: CataloguedBackup): Promise<DrillEvidence> {
      const reporter = new ProgressReporter(dependencies.temporal);
      const signal = AbortSignal.any([cancellationSignal(), dependencies.stop]);
      const started = performance.now();
      try {
        reporter.accept({ stage: 'restoring', bytes: 0 });
        const restore = backup.type === 'database' ? drillDatabase : drillDirectory;
        const compared = await watched(signal, (watching, alive) => {
          const onProgress = (progress: BackupProgress) => {
            alive(isAllRead(backup, progress) ? AFTERWARDS_MS : undefined);
            reporter.accept(progress);
          };
          return restore(dependencies, backup, { onProgress, signal: watching });
        });
        return { ...compared, seconds: Math.round((performance.now() - started) / 100) / 10 };
      } catch (error) {
        // A backup that is damaged is so in each try.
        const isDamaged = error instanceof DamagedBackup;
        const reason = isDamaged ? new OrchestratorError('drill_failed', error.message) : error;
        throw ended(reason, dependencies.stop);
      } finally {
        reporter.close();
      }
    },
  };
}

export type DrillActivities = ReturnType<typeof createDrillActivities>;

type Compared = Omit<DrillEvidence, 'seconds'>;
type Steering = Required<Pick<RestoreOrder, 'onProgress'>> & { signal: AbortSignal };

/** When all is read, indexes are built and rows counted, in silence. */
const AFTERWARDS_MS = 6 * 3_600_000;

const isAllRead = ({ content }: CataloguedBackup, { stage, bytes }: BackupProgress): boolean =>
  stage === 'restoring' &&
  bytes >= (content.files.find(({ name }) => name === 'data')?.size ?? Number.POSITIVE_INFINITY);

/** The same for all tries of one drill, and no other's. */
function ownHex(): string {
  const { workflowId, runId } = activityInfo().workflowExecution!;
  return createHash('sha256').update(`${workflowId} ${runId}`).digest('hex').slice(0, 8);
}

async function drillDatabase(
  { databaseUrl, settings, checks }: RestoreDrillDependencies,
  backup: CataloguedBackup,
  { onProgress, signal }: Steering,
): Promise<Compared> {
  const own = ownHex();
  const name = scratchName(Date.now(), own);
  const url = Object.assign(new URL(databaseUrl), { pathname: `/${name}` }).href;
  await onServer(databaseUrl, async (client) => {
    for (const other of (await scratchNames(client)).filter((found) => isOver(found, own)))
      await dropScratch(client, other);
    await createScratch(client, name);
  });
  try {
    const destination = await openDestination(backup.destination, settings);
    const { address, content } = backup;
    // Roles belong to the server, and nothing shall be replicated: the scratch database does without them.
    const order = { destination, address, content, settings, onProgress };
    await restoreDatabase(order, { url, withoutOwners: true, withoutReplication: true }, signal);
    const { rows } = content;
    const compared = rows
      ? compareRows(rows, await settings.databaseTools.countRows(url, signal))
      : { compared: 0, found: 0, differences: ['the manifest has no counts of rows'] };
    return { ...compared, checks: await runDrillChecks(url, checks, signal) };
  } finally {
    await onServer(databaseUrl, (client) => dropScratch(client, name)).catch((error: unknown) => {
      log.warn('a scratch database stays until the next drill', { name, error: describeError(error) });
    });
  }
}

/** A connection of its own: the drill may outlive any, and at its end another is as good. */
async function onServer<T>(databaseUrl: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connect(databaseUrl, 0);
  try {
    return await work(client);
  } finally {
    await disconnect(client);
  }
}

const isOver = (name: string, own: string): boolean =>
  name.endsWith(`_${own}`) || scratchBegan(name) < Date.now() - SCRATCH_KEPT_MS;

async function drillDirectory(
  { scratchDirectory, settings }: RestoreDrillDependencies,
  { type, destination: at, address, content }: CataloguedBackup,
  { onProgress, signal }: Steering,
): Promise<Compared> {
  const own = ownHex();
  await ownDirectory(scratchDirectory);
  const left = (await readdir(scratchDirectory)).filter((name) => isScratchName(name) && isOver(name, own));
  for (const name of left) await rm(path.join(scratchDirectory, name), { recursive: true, force: true });
  const directory = path.join(scratchDirectory, scratchName(Date.now(), own));
  await mkdir(directory, { mode: 0o700 });
  try {
    const destination = await openDestination(at, settings);
    const order = { destination, address, content, settings, onProgress };
    if (type === 'redis') {
      const file = path.join(directory, 'dump.rdb');
      await restoreFile(order, { file }, signal);
      return { compared: 1, found: 1, differences: [], checks: [await checkRdb(file, signal)] };
    }
    // Not to the directory itself: what is unpacked beside it would outlive a killed try.
    const tree = { directory: path.join(directory, 'tree'), withoutOwners: true };
    const { entries } = await restoreTree(order, tree, signal);
    return { ...compareRows({ entries: content.entries ?? -1 }, { entries }), checks: [] };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Makes the directory, or refuses one that is somebody else's: what is restored there may be secret. */
async function ownDirectory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const { uid, mode } = await lstat(directory);
  const isOwn = (mode & constants.S_IFMT) === constants.S_IFDIR && uid === process.getuid?.();
  if (!isOwn || (mode & constants.S_IWOTH) !== 0)
    throw new OrchestratorError('drill_failed', `${directory} is not this service's own: set SA01_SPOOL_DIR`);
}

/** Whether the dump is whole. No Redis loads it: there is none to spare. */
async function checkRdb(file: string, signal: AbortSignal): Promise<CheckOutcome> {
  const name = 'end and checksum of the dump, which no Redis has loaded,';
  const check = new RdbCheck();
  for await (const chunk of createReadStream(file, { signal })) check.add(chunk as Buffer);
  try {
    check.end();
    return { name, passed: true, error: null };
  } catch (error) {
    return { name, passed: false, error: `failed: ${describeError(error)}` };
  }
}
