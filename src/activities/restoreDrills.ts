import { createHash } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { activityInfo, cancellationSignal, log } from '@temporalio/activity';
import type { Client } from '@temporalio/client';
import type pg from 'pg';
import { openDestination } from '../backups/open.ts';
import { type RestoreOrder, restoreDatabase, restoreFile, restoreTree } from '../backups/restore.ts';
import type { BackupSettings } from '../backups/settings.ts';
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
    /** The verified backup of this id, or the newest of the source, by default of a database. */
    chooseBackup: ({ backup, source }: RestoreDrillInput): Promise<CataloguedBackup> =>
      told(async () => {
        const type = backup || source ? null : 'database';
        const found = await findBackup(pool, { id: backup ?? null, source: source ?? null, type });
        const wanted = backup ? `the id ${backup}` : source ? `the source ${source}` : 'a database';
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
     * again. What a
     * killed try of the same drill left goes first, and what others left more than a day ago.
     */
    async drillBackup(backup: CataloguedBackup): Promise<DrillEvidence> {
      const reporter = new ProgressReporter(dependencies.temporal);
      const signal = AbortSignal.any([cancellationSignal(), dependencies.stop]);
      const started = performance.now();
      try {
        reporter.accept({ stage: 'restoring', bytes: 0 });
        const restore = backup.type === 'database' ? drillDatabase : drillDirectory;
        const onProgress = (progress: BackupProgress) => reporter.accept(progress);
        const compared = await restore(dependencies, backup, { onProgress, signal });
        return { ...compared, seconds: Math.round((performance.now() - started) / 100) / 10 };
      } catch (error) {
        throw ended(error, dependencies.stop);
      } finally {
        reporter.close();
      }
    },
  };
}

export type DrillActivities = ReturnType<typeof createDrillActivities>;

type Compared = Omit<DrillEvidence, 'seconds'>;
type Steering = Required<Pick<RestoreOrder, 'onProgress'>> & { signal: AbortSignal };

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
    // Roles belong to the server: the scratch database does without them.
    const order = { destination, address, content, settings, onProgress };
    await restoreDatabase(order, { url, withoutOwners: true }, signal);
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
  await mkdir(scratchDirectory, { recursive: true, mode: 0o700 });
  const left = (await readdir(scratchDirectory)).filter((name) => isScratchName(name) && isOver(name, own));
  for (const name of left) await rm(path.join(scratchDirectory, name), { recursive: true, force: true });
  const directory = path.join(scratchDirectory, scratchName(Date.now(), own));
  await mkdir(directory, { mode: 0o700 });
  try {
    const destination = await openDestination(at, settings);
    const order = { destination, address, content, settings, onProgress };
    if (type === 'redis') {
      // Its checksums are compared on the way.
      await restoreFile(order, { file: path.join(directory, 'dump.rdb') }, signal);
      return { compared: 1, found: 1, differences: [], checks: [] };
    }
    const { entries } = await restoreTree(order, { directory }, signal);
    return { ...compareRows({ entries: content.entries ?? -1 }, { entries }), checks: [] };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
