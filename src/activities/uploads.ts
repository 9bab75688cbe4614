import { cancellationSignal, metricMeter } from '@temporalio/activity';
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
import type { StoredOutcome } from '../domain/uploadTries.ts';
import type { UploadSources } from '../storage/uploadSources.ts';
import { countDeadLetters } from './deadLetters.ts';
import { onPostgres } from './failure.ts';
import type { UploadBytes } from './uploadBytes.ts';
import { unlessAborted } from './uploadRound.ts';

export interface UploadDependencies {
  pool: pg.Pool;
  /** Those that are configured. */
  tierNames: readonly TierName[];
  sources: Pick<UploadSources, 'check'>;
  /** Where the activities run that carry bytes. */
  bytesTaskQueue: string;
  bytes: Pick<UploadBytes, 'storeAtOnce'>;
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

export interface BegunUpload {
  accepted: AcceptedUpload;
  /** Null: it is stored already, or still to be stored. */
  stored: StoredOutcome | null;
}

/** A workflow task may take no longer; what needs more has an activity of its own. */
const AT_ONCE_MS = 5_000;

/** The short ones, for the queue of short activities. */
export function createUploadActivities({
  pool,
  tierNames,
  sources,
  bytesTaskQueue,
  bytes,
}: UploadDependencies) {
  const accept = async (key: string, request: UploadRequest | null) => {
    if (request) await take(pool, sources, key, request);
    const upload = await openUpload(pool, key);
    const accepted = { ...acceptedUpload(upload, tierNames), bytesTaskQueue };
    if (accepted.better.length > 0) await markPromoting(pool, key);
    return { upload, accepted };
  };
  return {
    /**
     * Makes the upload's row the owner of what a person asks for, or finds the one that is there; one that was cancelled
     * or had failed waits again.
     * @throws ApplicationFailure upload_refused
     */
    acceptUpload: (key: string, request: UploadRequest | null): Promise<AcceptedUpload> =>
      onPostgres(async () => (await accept(key, request)).accepted),

    /**
     * Accepts the upload, and stores it if it is small and all is well: one local activity, and no other is needed. It
     * ends within seconds, and may be repeated.
     * @throws ApplicationFailure as acceptUpload
     */
    beginUpload: (key: string, request: UploadRequest | null): Promise<BegunUpload> =>
      onPostgres(async () => {
        const { upload, accepted } = await accept(key, request);
        const signal = AbortSignal.any([cancellationSignal(), AbortSignal.timeout(AT_ONCE_MS)]);
        const storing = unlessAborted(signal, () => bytes.storeAtOnce(upload, signal));
        return { accepted, stored: await storing.catch(() => null) };
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

/** As its row says; one that was cancelled or had failed waits again. */
async function openUpload(pool: pg.Pool, key: string): Promise<Upload> {
  let upload = await readUpload(pool, key);
  if (upload?.state === 'failed' || upload?.state === 'cancelled') {
    await wakeUpload(pool, key);
    upload = await readUpload(pool, key);
  }
  if (upload) return upload;
  throw new OrchestratorError('upload_refused', 'there is no upload under this key');
}

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
