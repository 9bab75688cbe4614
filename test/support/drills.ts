import { createHash } from 'node:crypto';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createDrillActivities } from '../../src/activities/restoreDrills.ts';
import type { BackupSettings } from '../../src/backups/settings.ts';
import type { CataloguedBackup, DrillCheck, DrillEvidence } from '../../src/domain/backups.ts';

/** The try of a drill, as its activity sees it; plain JSON but for the settings. */
export interface DrillTry {
  runId: string;
  backup: CataloguedBackup;
  databaseUrl: string;
  scratchDirectory: string;
  checks?: DrillCheck[];
  settings: BackupSettings;
}

/** A check that a try can be killed or watched in. */
export const HANGS: DrillCheck[] = [{ name: 'hangs', sql: 'SELECT true FROM pg_sleep(600)' }];

/** Progress is for a workflow that is not here. */
const nobody = { workflow: { getHandle: () => ({ signal: async () => {} }) } } as unknown as Client;

/** Runs the activity of a drill, in an environment that can cancel it. */
export function drillTry({ runId, backup, checks = [], ...dependencies }: DrillTry) {
  const workflowExecution = { workflowId: 'restore-drill/test', runId };
  const environment = new MockActivityEnvironment(
    { workflowExecution },
    { logger: new DefaultLogger('ERROR') },
  );
  const stop = new AbortController().signal;
  const { drillBackup } = createDrillActivities({ ...dependencies, checks, stop, temporal: nobody } as never);
  const evidence = environment.run(drillBackup, backup) as Promise<DrillEvidence>;
  return { evidence, cancel: () => environment.cancel() };
}

/** What the names of a drill's scratch places end with. */
export const scratchEnd = (runId: string): string =>
  `_${createHash('sha256').update(`restore-drill/test ${runId}`).digest('hex').slice(0, 8)}`;
