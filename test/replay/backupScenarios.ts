import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import type { BackupContent } from '../../src/domain/backupFacts.ts';
import { manifestOf } from '../../src/domain/backups.ts';
import { eventually } from '../support/eventually.ts';
import { beatUntilCancelled } from '../support/workflows.ts';
import { becomes, type Scenario } from './scenario.ts';

const content: BackupContent = {
  files: [{ name: 'data', size: 70, sha256: 'aa', plainSize: 100, plainSha256: 'bb' }],
  versions: { server: '16.4', pg_dump: '16.4' },
  rows: { 'public.notes': 3 },
  notes: [],
  compression: 'zstd',
  recipients: [],
};
const begun = {
  id: '20261123t120000z-5c2e67f4',
  idempotency_key: 'recorded',
  type: 'database' as const,
  source: 'somaagent_core',
  destination: 's3://bucket/backups',
  metadata: {},
  started_at: '2026-11-23T12:00:00.000Z',
};
const address = { type: begun.type, source: begun.source, id: `${begun.id}-1` };

/** Fails as an activity does, at the calls of these numbers. */
const failsAt = (calls: number[], type: string, otherwise: () => Promise<unknown>) => {
  let call = 0;
  return async () => {
    call += 1;
    if (calls.includes(call))
      throw ApplicationFailure.create({ type, message: 'away', nextRetryDelay: '1ms' });
    return otherwise();
  };
};

/** Waits for Postgres at each step, and for S3; a try fails, a worker stops, the third try succeeds and tells how far it is. */
export function backup(): Scenario {
  let tries = 0;
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  return {
    type: 'backup',
    workflowId: 'backup/recorded',
    args: [{ type: begun.type, source: begun.source }],
    activities: {
      beginBackup: failsAt([1], 'postgres_unavailable', async () => ({
        ...begun,
        lastGoodSize: 90,
        manifest: null,
      })),
      untilWorthTrying: failsAt([1], 'backup_failed', async () => {}),
      async makeBackup() {
        tries += 1;
        if (tries < 3)
          throw ApplicationFailure.create({
            type: tries === 1 ? 'backup_failed' : 'worker_stopped',
            message: 'no',
          });
        await held;
        return { address, content };
      },
      commitBackup: failsAt([1, 2], 'storage_unavailable', async () =>
        manifestOf(begun, content, '2026-11-23T12:01:00.000Z'),
      ),
      applyRetention: failsAt([1], 'postgres_unavailable', async () => ({
        kept: 3,
        removed: ['an-old-one'],
      })),
      endBackup: async () => {},
    },
    async drive(handle) {
      await eventually('the third try', () => tries === 3);
      await handle.signal('progress', { stage: 'reading', bytes: 42 });
      await handle.signal('progress', { stage: 'verifying', bytes: 7 });
      await becomes(handle, 'verifying');
      release();
      await handle.result();
    },
  };
}

/** Cancelled in its first try, with Postgres away at its end. */
export function backupCancelled(): Scenario {
  let tries = 0;
  return {
    ...backup(),
    activities: {
      beginBackup: async () => ({ ...begun, lastGoodSize: null, manifest: null }),
      untilWorthTrying: async () => {},
      async makeBackup() {
        tries += 1;
        await beatUntilCancelled();
        throw new CancelledFailure('cancelled');
      },
      endBackup: failsAt([1], 'postgres_unavailable', async () => {}),
    },
    async drive(handle) {
      await eventually('the try', () => tries === 1);
      await handle.cancel();
      await becomes(handle, 'cancelled');
    },
  };
}

/** A drill that waits for Postgres, fails once, is told of, and finds `differences`. */
export const restoreDrill = (differences: string[]) => (): Scenario => ({
  type: 'restoreDrill',
  workflowId: 'restore-drill/recorded',
  args: [],
  activities: {
    chooseBackup: failsAt([1], 'postgres_unavailable', async () => ({ ...begun, address, content })),
    drillBackup: failsAt([1], 'backup_failed', async () => ({
      compared: 1,
      found: 3,
      differences,
      checks: [{ name: 'has notes', passed: true, error: null }],
      seconds: 2,
    })),
    recordDrill: failsAt([1], 'postgres_unavailable', async () => {}),
  },
  async drive(handle) {
    await handle.signal('progress', { stage: 'restoring', bytes: 42 });
    await becomes(handle, differences.length > 0 ? 'failed' : 'passed');
  },
});
