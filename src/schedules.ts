import { isDeepStrictEqual } from 'node:util';
import {
  type Client,
  ScheduleAlreadyRunning,
  type ScheduleDescription,
  ScheduleNotFoundError,
  type ScheduleOptions,
} from '@temporalio/client';
import { MAINTENANCE_SUMMARY } from './domain/maintenance.ts';

export const MAINTENANCE_SCHEDULE_ID = 'somaagent-maintenance';

/**
 * Makes sure that the Temporal Schedule of `maintenance` exists and starts what this version wants, as often as any
 * worker likes. Everything else belongs to people once it is made: its times, its policies, whether it is paused. One
 * that was deleted is made again: to stop it, pause it.
 */
export async function keepSchedules(temporal: Client, taskQueue: string): Promise<void> {
  const wanted = maintenanceSchedule(taskQueue);
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

/** What the two start; without texts, which a Temporal server before 1.25 does not keep. */
const startsTheSame = (one: ScheduleDescription['action'], other: Action): boolean =>
  isDeepStrictEqual(
    [one.workflowType, one.workflowId, one.taskQueue, one.args ?? []],
    [other.workflowType, other.workflowId, other.taskQueue, other.args],
  );
