// What the activities of backups and drills have in common: heartbeats, progress, and how they end.
import { activityInfo, CancelledFailure, cancellationSignal, heartbeat, log } from '@temporalio/activity';
import type { Client } from '@temporalio/client';
import { fromPostgres } from '../database/postgres.ts';
import { BACKUP_PROGRESS_SIGNAL, type BackupProgress } from '../domain/backups.ts';
import { describeError } from '../domain/errors.ts';
import { toFailure, workerStops } from './failure.ts';

/** Why a long activity ended: its worker stops, it was cancelled, or what was thrown. */
export function ended(error: unknown, stop: AbortSignal): unknown {
  if (stop.aborted) return workerStops();
  if (cancellationSignal().aborted) return new CancelledFailure('cancelled');
  return toFailure(fromPostgres(error));
}

/** Runs a short step; what it throws is told to the workflow by its code. */
export async function told<T>(work: () => Promise<T>): Promise<T> {
  const beating = setInterval(() => heartbeat(), TICK_MS);
  try {
    return await work();
  } catch (error) {
    throw toFailure(fromPostgres(error));
  } finally {
    clearInterval(beating);
  }
}

const TICK_MS = 1_000;
/** A report is a signal, and signals are history: ever fewer of them, some hundreds in a day. */
const REPORT_INTERVAL_MS = 5_000;
const REPORT_PART = 0.02;

/** Tells worker and workflow how far a long activity is. */
export class ProgressReporter {
  private latest: BackupProgress | undefined;
  private told: BackupProgress | undefined;
  private toldAt = performance.now();
  private readonly began = performance.now();
  private readonly workflow;
  private readonly ticking = setInterval(() => this.tick(), TICK_MS);

  constructor(temporal: Client) {
    this.workflow = temporal.workflow.getHandle(activityInfo().workflowExecution!.workflowId);
  }

  accept(progress: BackupProgress): void {
    this.latest = progress;
    // Another stage is news.
    if (progress.stage !== this.told?.stage) this.tell(progress);
  }

  close(): void {
    clearInterval(this.ticking);
  }

  private tick(): void {
    heartbeat(this.latest);
    const now = performance.now();
    const interval = Math.max(REPORT_INTERVAL_MS, (now - this.began) * REPORT_PART);
    if (this.latest && this.latest.bytes !== this.told?.bytes && now - this.toldAt >= interval)
      this.tell(this.latest);
  }

  /** One that Temporal cannot take is dropped: the next one says more. */
  private tell(progress: BackupProgress): void {
    this.told = { ...progress };
    this.toldAt = performance.now();
    this.workflow.signal(BACKUP_PROGRESS_SIGNAL, this.told).catch((error: unknown) => {
      log.debug('progress not delivered', { error: describeError(error) });
    });
  }
}
