import { activityInfo, cancellationSignal, heartbeat, log, metricMeter } from '@temporalio/activity';
import type pg from 'pg';
import { connect, disconnect, fromPostgres, inTransaction } from '../database/postgres.ts';
import { markCleared, objectKey } from '../database/uploadOutcomes.ts';
import {
  nextLeftovers,
  pathsInUse,
  type ReferenceUse,
  referencesInUse,
  referencesOnTheirWay,
} from '../database/uploadSweep.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import {
  isSpoolFileDue,
  type SpoolUse,
  SWEEP_LIMITS,
  type Sweep,
  type SweepLimits,
  type Swept,
  type SweptPlace,
} from '../domain/uploadSweep.ts';
import type { StorageTier } from '../storage/tier.ts';
import { filesBehind, oldSpoolFiles, removeSpooled, type SpooledFile } from '../storage/uploadSweep.ts';
import { toFailure, workerStops } from './failure.ts';

export interface UploadSweepDependencies {
  databaseUrl: string;
  pool: pg.Pool;
  /** Those that are configured. */
  tiers: readonly StorageTier[];
  /** Undefined: there is no spool. */
  spoolDir: string | undefined;
  /** Aborted when the worker stops: another one goes on. */
  stop: AbortSignal;
  /** For tests. */
  limits?: SweepLimits;
}

export interface SweepRun {
  dryRun: boolean;
  /** What an earlier run of the same workflow swept. */
  sweep: Sweep;
}

const HOUR_MS = 3_600_000;
const HEARTBEAT_MS = 2_000;
/** A place that takes longer, for all of it or for one copy, is away: a mount that hangs gives no answer at all. */
const PLACE_LIMIT_MS = 5 * 60_000;
const COPY_LIMIT_MS = 30_000;

export function createUploadSweepActivities(dependencies: UploadSweepDependencies) {
  return {
    /**
     * Removes what uploads left behind in the tiers and in the spool, and is older than the limits; in a dry run it
     * counts that. A place that is away is told, and keeps nothing else from being swept.
     * @throws ApplicationFailure postgres_unavailable, postgres_refused, with what was swept so far
     */
    async sweepUploads({ dryRun, sweep }: SweepRun): Promise<Sweep> {
      const { swept } = (!dryRun && (activityInfo().heartbeatDetails as Sweep | undefined)) || sweep;
      // What was away before may be there now.
      const sweeping = new UploadSweep(dependencies, dryRun, { swept: { ...swept }, unreachable: {} });
      const beating = setInterval(() => heartbeat(sweeping.sweep), HEARTBEAT_MS);
      try {
        await sweeping.all();
        return sweeping.sweep;
      } catch (error) {
        cancellationSignal().throwIfAborted();
        if (dependencies.stop.aborted) throw workerStops();
        throw toFailure(error, dryRun ? sweep : sweeping.sweep);
      } finally {
        clearInterval(beating);
      }
    },
  };
}

export type UploadSweepActivities = ReturnType<typeof createUploadSweepActivities>;

class UploadSweep {
  readonly sweep: Sweep;
  private readonly dependencies: UploadSweepDependencies;
  private readonly dryRun: boolean;
  private readonly limits: SweepLimits;
  private readonly now = Date.now();
  private readonly signal: AbortSignal;
  private readonly removed = metricMeter.createCounter(
    'upload_leftovers_removed',
    undefined,
    'what uploads left behind in the tiers and in the spool, and was removed',
  );

  constructor(dependencies: UploadSweepDependencies, dryRun: boolean, sweep: Sweep) {
    this.dependencies = dependencies;
    this.dryRun = dryRun;
    this.sweep = sweep;
    this.limits = dependencies.limits ?? SWEEP_LIMITS;
    this.signal = AbortSignal.any([cancellationSignal(), dependencies.stop]);
  }

  async all(): Promise<void> {
    const { pool, tiers, spoolDir } = this.dependencies;
    if (spoolDir) {
      const paths = await asked(pathsInUse(pool));
      const spool = async (signal: AbortSignal) => this.spool(spoolDir, await filesBehind(paths), signal);
      await this.reach('spool', PLACE_LIMIT_MS, spool);
    }
    for (const tier of tiers)
      await this.reach(tier.name, PLACE_LIMIT_MS, (signal) => this.stranded(tier, signal));
    await this.leftovers();
  }

  /** What a place says is told; what Postgres says, or an end that others want, ends the sweep. */
  private async reach(
    place: SweptPlace,
    limitMs: number,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const signal = AbortSignal.any([this.signal, AbortSignal.timeout(limitMs)]);
    signal.throwIfAborted();
    try {
      await Promise.race([work(signal), abortOf(signal)]);
    } catch (error) {
      if (this.signal.aborted || isOfPostgres(error)) throw error;
      this.sweep.unreachable[place] = describeError(error).slice(0, 300);
      log.warn('what uploads left behind cannot be swept', { place, error: describeError(error) });
    }
  }

  private async spool(spoolDir: string, needed: Set<string>, signal: AbortSignal): Promise<void> {
    const { pool } = this.dependencies;
    const youngest = Math.min(this.limits.done, this.limits.unknown);
    for await (const files of oldSpoolFiles(spoolDir, this.now - youngest * HOUR_MS)) {
      // Right before the files go: an upload may have been queued since the sweep began.
      const onTheirWay = await asked(referencesOnTheirWay(pool));
      const pathsOnTheirWay = await filesBehind([...onTheirWay]);
      const refs = files.map(({ ref }) => ref);
      const uses = await asked(referencesInUse(pool, refs));
      for (const file of files) {
        signal.throwIfAborted();
        const isNeeded = needed.has(file.path) || onTheirWay.has(file.ref) || pathsOnTheirWay.has(file.path);
        const use = isNeeded ? 'needed' : useOf(file, uses.get(file.ref));
        const ageHours = (this.now - file.writtenAt) / HOUR_MS;
        if (isSpoolFileDue(use, ageHours, this.limits)) await this.spoolFile(file);
      }
    }
  }

  private async spoolFile(file: SpooledFile): Promise<void> {
    if (this.dryRun || (await removeSpooled(file))) this.count('spool_files');
  }

  private async stranded(tier: StorageTier, signal: AbortSignal): Promise<void> {
    const before = this.now - this.limits.stranded * HOUR_MS;
    for (const stranded of await tier.stranded(before, signal)) {
      signal.throwIfAborted();
      if (!this.dryRun) await stranded.remove(signal);
      this.count('stranded');
    }
  }

  private async leftovers(): Promise<void> {
    const client = await connect(this.dependencies.databaseUrl);
    try {
      let after: string | undefined = '';
      while (after !== undefined) after = await asked(this.leftoversAfter(client, after));
    } finally {
      await disconnect(client);
    }
  }

  /** Those of one upload, while its row is locked. Returns its key, or undefined if there are no more. */
  private leftoversAfter(client: pg.Client, after: string): Promise<string | undefined> {
    return inTransaction(client, async () => {
      const found = await nextLeftovers(client, after, this.limits.leftovers);
      for (const name of found?.tiers ?? []) {
        // One that is away keeps none of the others waiting.
        const tier = this.dependencies.tiers.find((its) => its.name === name);
        if (found && tier && !(name in this.sweep.unreachable))
          await this.reach(name, COPY_LIMIT_MS, (signal) =>
            this.leftover(client, tier, found.idempotencyKey, signal),
          );
      }
      return found?.idempotencyKey;
    });
  }

  private async leftover(
    client: pg.Client,
    tier: StorageTier,
    idempotencyKey: string,
    signal: AbortSignal,
  ): Promise<void> {
    if (!this.dryRun) {
      await tier.remove(objectKey(idempotencyKey), signal);
      signal.throwIfAborted();
      await asked(markCleared(client, idempotencyKey, [tier.name]));
    }
    this.count('leftovers');
  }

  private count(what: keyof Swept): void {
    this.sweep.swept[what] += 1;
    if (!this.dryRun) this.removed.add(1, { what });
  }
}

/** What was written after its upload was stored may be something else, and nobody has its bytes. */
function useOf({ writtenAt }: SpooledFile, use: ReferenceUse | undefined): SpoolUse {
  if (use?.needed) return 'needed';
  return use?.storedAt && writtenAt <= use.storedAt.getTime() ? 'done' : 'unknown';
}

/** A statement whose error is told from those of the places. */
const asked = <T>(statement: Promise<T>): Promise<T> =>
  statement.catch((error: unknown) => {
    throw fromPostgres(error);
  });

/** For what does not listen to the signal. */
const abortOf = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));

const isOfPostgres = (error: unknown): boolean =>
  error instanceof OrchestratorError && error.code.startsWith('postgres_');
