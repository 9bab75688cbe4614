import { setTimeout as delay } from 'node:timers/promises';
import { activityInfo, cancellationSignal, heartbeat, metricMeter } from '@temporalio/activity';
import type pg from 'pg';
import { connectForPurge, oldestKept, purgeBatch } from '../database/maintenance.ts';
import { disconnect, fromPostgres } from '../database/postgres.ts';
import { advance, type PurgeProgress, type PurgeStage, pauseAfter } from '../domain/maintenance.ts';
import { toFailure } from './failure.ts';

export interface MaintenanceDependencies {
  databaseUrl: string;
  /** How long a published row is kept. */
  retentionDays: number;
  /** Aborted when the worker stops: the purge goes on elsewhere. */
  stop: AbortSignal;
}

export interface PurgeRun {
  dryRun: boolean;
  progress: PurgeProgress;
  runSeconds: number;
}

export function createMaintenanceActivities(dependencies: MaintenanceDependencies) {
  return {
    /**
     * Purges from `progress` on, in small batches with pauses, for up to `runSeconds` or until nothing is left, and
     * returns how far it came. Ends between two batches when it is cancelled or its worker stops. A second attempt goes
     * on where the first one sent its last heartbeat; rows that a killed worker deleted after that are not counted.
     */
    async purge({ dryRun, progress, runSeconds }: PurgeRun): Promise<PurgeProgress> {
      const { databaseUrl, retentionDays, stop: workerStop } = dependencies;
      const timeUp = AbortSignal.timeout(runSeconds * 1000);
      const stop = AbortSignal.any([cancellationSignal(), workerStop, timeUp]);
      const purge = new Purge(activityInfo().heartbeatDetails ?? progress, { dryRun, retentionDays });
      let client: pg.Client | undefined;
      try {
        client = await connectForPurge(databaseUrl);
        while (purge.progress.stage !== 'done' && !stop.aborted) {
          const started = performance.now();
          await purge.batch(client);
          heartbeat(purge.progress);
          await delay(pauseAfter(performance.now() - started), undefined, { signal: stop }).catch(() => {});
        }
        return purge.progress;
      } catch (error) {
        // The workflow tries again, and goes on from there.
        throw toFailure(fromPostgres(error), purge.progress);
      } finally {
        if (client) await disconnect(client);
      }
    },
  };
}

export type MaintenanceActivities = ReturnType<typeof createMaintenanceActivities>;

class Purge {
  progress: PurgeProgress;
  private readonly options: { dryRun: boolean; retentionDays: number };
  private readonly counters: Record<PurgeStage, { add(rows: number): void }>;

  constructor(progress: PurgeProgress, options: { dryRun: boolean; retentionDays: number }) {
    this.progress = progress;
    this.options = options;
    this.counters = {
      published: metricMeter.createCounter(
        'outbox_messages_purged',
        undefined,
        'published rows that were deleted for their age',
      ),
      idempotency: metricMeter.createCounter(
        'idempotency_records_purged',
        undefined,
        'idempotency records that were deleted after they expired',
      ),
      health: metricMeter.createCounter(
        'health_transitions_purged',
        undefined,
        "transitions of components' health that were deleted for their age",
      ),
      uploads: metricMeter.createCounter(
        'uploads_purged',
        undefined,
        'uploads that were cancelled before they were stored, and deleted later',
      ),
    };
  }

  async batch(client: pg.Client): Promise<void> {
    const { stage, from } = this.progress;
    if (stage === 'done') return;
    const batch = await purgeBatch(client, { stage, from }, this.options);
    if (!this.options.dryRun) this.counters[stage].add(batch.rows);
    this.progress = advance(this.progress, batch);
    if (stage === 'published' && this.progress.stage !== stage) {
      const oldest = await oldestKept(client, from, this.options.retentionDays);
      this.progress = { ...this.progress, oldestKept: oldest?.toISOString() ?? null };
    }
  }
}
