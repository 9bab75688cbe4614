import { metricMeter } from '@temporalio/activity';
import type pg from 'pg';
import { withClient } from '../database/postgres.ts';
import { markCancelled, markFailed, markPromoting, type UploadFailure } from '../database/uploadOutcomes.ts';
import { KEY_OF_OTHER_BYTES, readUpload, takeByReference, wakeUpload } from '../database/uploads.ts';
import { OrchestratorError } from '../domain/errors.ts';
import {
  type TierName,
  tiersAbove,
  tiersBelow,
  type Upload,
  type UploadReceipt,
  type UploadRequest,
} from '../domain/uploads.ts';
import type { UploadSources } from '../storage/uploadSources.ts';
import { countDeadLetters } from './deadLetters.ts';
import { onPostgres } from './failure.ts';

export interface UploadDependencies {
  pool: pg.Pool;
  /** Those that are configured. */
  tierNames: readonly TierName[];
  sources: Pick<UploadSources, 'check'>;
  /** Where the activities run that carry bytes. */
  bytesTaskQueue: string;
}

/** An upload as its workflow finds it. */
export interface AcceptedUpload {
  filename: string;
  attempts: number;
  lastError: string | null;
  /** Of an upload that is stored already. */
  receipt: UploadReceipt | null;
  /** Tiers to which it is still to be brought, and those where bytes may be left. */
  better: TierName[];
  leftovers: TierName[];
  bytesTaskQueue: string;
}

/** The short ones, for the queue of short activities. */
export function createUploadActivities({ pool, tierNames, sources, bytesTaskQueue }: UploadDependencies) {
  return {
    /**
     * Makes the upload's row the owner of what a person asks for, or finds the one that is there; one that was cancelled
     * or had failed waits again.
     * @throws ApplicationFailure upload_refused
     */
    acceptUpload: (key: string, request: UploadRequest | null): Promise<AcceptedUpload> =>
      onPostgres(async () => {
        if (request) await take(pool, sources, key, request);
        else await wakeUpload(pool, key);
        const upload = await readUpload(pool, key);
        if (!upload) throw new OrchestratorError('upload_refused', 'there is no upload under this key');
        const accepted = { ...acceptedUpload(upload, tierNames), bytesTaskQueue };
        if (accepted.better.length > 0) await markPromoting(pool, key);
        return accepted;
      }),

    /** Gives the upload up: it becomes a dead letter, whose replay begins anew with the same bytes. */
    failUpload: (key: string, failure: UploadFailure): Promise<void> =>
      onPostgres(async () => {
        if (!(await withClient(pool, (client) => markFailed(client, key, failure)))) return;
        metricMeter.createCounter('uploads_failed', undefined, 'uploads that became dead letters').add(1);
        countDeadLetters(1);
      }),

    /** A person wants no more of it: what is stored stays, of what is not the bytes are kept. Returns its receipt. */
    cancelUpload: (key: string): Promise<UploadReceipt | null> =>
      onPostgres(async () => (await markCancelled(pool, key))?.receipt ?? null),
  };
}

export type UploadActivities = ReturnType<typeof createUploadActivities>;

async function take(
  pool: pg.Pool,
  sources: Pick<UploadSources, 'check'>,
  key: string,
  request: UploadRequest,
): Promise<void> {
  sources.check(request.dataRef ?? '');
  if (!(await takeByReference(pool, key, request)))
    throw new OrchestratorError('upload_refused', KEY_OF_OTHER_BYTES);
}

const acceptedUpload = (
  { filename, attempts, lastError, receipt, touchedTiers }: Upload,
  tierNames: readonly TierName[],
): Omit<AcceptedUpload, 'bytesTaskQueue'> => ({
  filename,
  attempts,
  lastError,
  receipt,
  better: receipt ? tiersAbove(receipt.tier, tierNames) : [],
  leftovers: receipt ? tiersBelow(receipt.tier, touchedTiers) : [],
});
