import { isDeepStrictEqual } from 'node:util';
import {
  type Client,
  ScheduleAlreadyRunning,
  type ScheduleDescription,
  ScheduleNotFoundError,
  type ScheduleOptions,
} from '@temporalio/client';
import { backupSummary, backupWorkflowId, DRILL_SUMMARY } from './domain/backups.ts';
import { MAINTENANCE_SUMMARY } from './domain/maintenance.ts';

export const MAINTENANCE_SCHEDULE_ID = 'somaagent-maintenance';
export const BACKUP_SCHEDULE_ID = 'somaagent-backup-database';
export const DRILL_SCHEDULE_ID = 'somaagent-restore-drill';

/**
 * Makes sure that the Temporal Schedules exist and start what this version wants, as often as any worker likes: of
 * `maintenance`, and with a destination for backups those of the database's backup and of the drill. Everything else
 * belongs to people once it is made: its times, its policies, whether it is paused. One that was deleted is made again: to
 * stop it, pause it.
 */
export async function keepSchedules(
  temporal: Client,
  taskQueue: string,
  /** The database to back up; undefined: no destination is configured. */
  database?: string,
): Promise<void> {
  await keep(temporal, maintenanceSchedule(taskQueue));
  if (database === undefined) return;
  await keep(temporal, backupSchedule(taskQueue, database));
  await keep(temporal, drillSchedule(taskQueue, database));
}

async function keep(temporal: Client, wanted: ScheduleOptions): Promise<void> {
  const handle = temporal.schedule.getHandle(wanted.scheduleId);
  const found = await handle.describe().catch((error: unknown) => {
    if (error instanceof ScheduleNotFoundError) return undefined;
    throw error;
  });
  if (!found) {
    await temporal.schedule.create(wanted).catch((error: unknown) => {
      // Another worker was quicker.
      if (!(error instanceof ScheduleAlreadyRunning)) throw error;
    });
  } else if (!startsTheSame(found.action, wanted.action)) {
    await handle.update((previous) => ({ ...previous, action: wanted.action }));
  }
}

type Action = ScheduleOptions['action'];

const maintenanceSchedule = (taskQueue: string) =>
  ({
    scheduleId: MAINTENANCE_SCHEDULE_ID,
    // Once an hour, at a minute that nobody else is likely to choose.
    spec: { calendars: [{ minute: 17, hour: '*', comment: 'hourly' }] },
    action: {
      type: 'startWorkflow',
      workflowType: 'maintenance',
      // Temporal appends the time.
      workflowId: 'maintenance/scheduled',
      taskQueue,
      args: [],
      staticSummary: MAINTENANCE_SUMMARY,
    },
    // A purge that was missed while Temporal was away needs no catching up: the next one does its work.
    policies: { overlap: 'SKIP', catchupWindow: '1 minute' },
  }) satisfies ScheduleOptions;

const backupSchedule = (taskQueue: string, source: string) =>
  ({
    scheduleId: BACKUP_SCHEDULE_ID,
    // UTC; at a minute that nobody else is likely to choose.
    spec: { calendars: [{ hour: 3, minute: 23, comment: 'daily' }] },
    action: {
      type: 'startWorkflow',
      workflowType: 'backup',
      workflowId: backupWorkflowId('scheduled/database'),
      taskQueue,
      args: [{ type: 'database', source }],
      staticSummary: backupSummary({ type: 'database', source }),
    },
    // One that was missed for an outage is made up for while the day lasts.
    policies: { overlap: 'SKIP', catchupWindow: '12 hours' },
  }) satisfies ScheduleOptions;

const drillSchedule = (taskQueue: string, source: string) =>
  ({
    scheduleId: DRILL_SCHEDULE_ID,
    spec: { calendars: [{ dayOfWeek: 'SUNDAY', hour: 5, minute: 41, comment: 'weekly' }] },
    action: {
      type: 'startWorkflow',
      workflowType: 'restoreDrill',
      workflowId: 'restore-drill/scheduled',
      taskQueue,
      args: [{ source }],
      staticSummary: DRILL_SUMMARY,
    },
    policies: { overlap: 'SKIP', catchupWindow: '12 hours' },
  }) satisfies ScheduleOptions;

/** What the two start; without texts, which a Temporal server before 1.25 does not keep. */
const startsTheSame = (one: ScheduleDescription['action'], other: Action): boolean =>
  isDeepStrictEqual(
    [one.workflowType, one.workflowId, one.taskQueue, one.args ?? []],
    [other.workflowType, other.workflowId, other.taskQueue, other.args],
  );
