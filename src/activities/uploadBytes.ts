import { cancellationSignal, heartbeat, log, metricMeter } from '@temporalio/activity';
import type pg from 'pg';
import { fromPostgres, withClient } from '../database/postgres.ts';
import { markCleared, markPromoted, markStored, markTried, objectKey } from '../database/uploadOutcomes.ts';
import { isReferenceNeeded, readUpload } from '../database/uploads.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { type TierName, tiersAbove, tiersBelow, type Upload, type UploadReceipt } from '../domain/uploads.ts';
import {
  type FailedOutcome,
  failedOutcome,
  type StoredOutcome,
  storedOutcome,
  type TierReason,
  type TryOutcome,
} from '../domain/uploadTries.ts';
import type { StorageTier } from '../storage/tier.ts';
import { SourceError, type UploadSources } from '../storage/uploadSources.ts';
import { toFailure, workerStops } from './failure.ts';
import { examined, factsOf, type ToStore, tierLimitMs, tryTiers, UploadSource } from './uploadRound.ts';

export interface UploadBytesDependencies {
  pool: pg.Pool;
  /** Those that are configured, best first. */
  tiers: readonly StorageTier[];
  /** Those whose health says that trying them is worth it. */
  tiersWorthTrying(): Promise<TierName[]>;
  sources: UploadSources;
  /** For tests. */
  limitMs?: (size: number) => number;
}

export interface UploadRound {
  key: string;
  /** A person wants it now: also tiers that do not look worth it are tried. */
  everyTier: boolean;
}

const BEAT_MS = 1_000;

/** The long ones, for a queue of their own: they carry bytes, and nothing else does. */
export function createUploadBytesActivities(dependencies: UploadBytesDependencies) {
  const bytes = new UploadBytes(dependencies);
  return {
    /**
     * One round over the tiers that are worth it, best first, until one has verified the bytes; the row then says so.
     * Bytes behind a reference are hashed before the first one. `attempt` is the number of this attempt, if it is one.
     * @throws ApplicationFailure upload_refused: nobody could store this
     */
    storeUpload: (round: UploadRound & { attempt: number }): Promise<TryOutcome> =>
      atLength((signal) => bytes.store(round, signal)),

    /** Brings a stored upload to the best tier above its own that takes it; the row then says so. */
    promoteUpload: (round: UploadRound): Promise<TryOutcome> =>
      atLength((signal) => bytes.promote(round, signal)),

    /** Removes the bytes from the tiers below the one that the row names. */
    clearLeftovers: (key: string): Promise<void> => atLength((signal) => bytes.clear(key, signal)),

    /**
     * Looks whether a stored upload is still there, byte by byte.
     * @throws ApplicationFailure upload_corrupt
     */
    verifyUpload: (key: string): Promise<UploadReceipt> => atLength((signal) => bytes.verify(key, signal)),
  };
}

export type UploadBytesActivities = ReturnType<typeof createUploadBytesActivities>;

/** Beats while it works, and ends with what ends it: a cancellation, a worker that stops, or this service's own error. */
async function atLength<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const signal = cancellationSignal();
  const beating = setInterval(() => heartbeat(), BEAT_MS);
  try {
    return await work(signal);
  } catch (error) {
    if (!signal.aborted) throw toFailure(fromPostgres(error));
    throw signal.reason?.message === 'WORKER_SHUTDOWN' ? workerStops() : signal.reason;
  } finally {
    clearInterval(beating);
  }
}

class UploadBytes {
  private readonly dependencies: UploadBytesDependencies;
  private readonly tierNames: TierName[];

  constructor(dependencies: UploadBytesDependencies) {
    this.dependencies = dependencies;
    this.tierNames = dependencies.tiers.map(({ name }) => name);
  }

  async store(
    { key, everyTier, attempt }: UploadRound & { attempt: number },
    signal: AbortSignal,
  ): Promise<TryOutcome> {
    const { pool, sources } = this.dependencies;
    const upload = await this.read(key);
    // The earlier attempt of this activity stored it, and its answer was lost.
    if (upload.receipt) return this.stored(upload, upload.receipt);
    if (upload.state !== 'waiting')
      throw new OrchestratorError('upload_refused', `this upload is ${upload.state}`);
    const source = new UploadSource(pool, sources, upload, signal);
    try {
      const facts = await examined(pool, source, upload);
      const tried = await this.try(upload, { facts, open: () => source.open(), signal }, everyTier);
      if ('reasons' in tried) {
        if (source.error) throw source.error;
        return await this.failed(upload, failedOutcome(this.tierNames, tried.reasons), attempt);
      }
      const promote = tiersAbove(tried.tier, this.tierNames).length > 0;
      const now = await withClient(pool, (client) => markStored(client, key, attempt, { ...tried, promote }));
      if (!now?.receipt) throw new OrchestratorError('upload_refused', `this upload is ${now?.state}`);
      count('uploads_stored', 'uploads that a tier has verified', { tier: tried.tier });
      return await this.stored(now, now.receipt);
    } catch (error) {
      // The source's outages are waited for as the tiers' are.
      if (!(error instanceof SourceError) || !error.retryable) throw error;
      const reason: TierReason = { tier: 'source', code: 'storage_unavailable', message: error.message };
      return await this.failed(upload, failedOutcome(this.tierNames, [reason]), attempt);
    }
  }

  async promote({ key, everyTier }: UploadRound, signal: AbortSignal): Promise<TryOutcome> {
    const { pool } = this.dependencies;
    const upload = await this.read(key);
    const { receipt } = upload;
    if (!receipt) throw new OrchestratorError('upload_refused', `this upload is ${upload.state}`);
    const better = tiersAbove(receipt.tier, this.tierNames);
    // The earlier attempt of this activity did it, and its answer was lost.
    if (better.length === 0) return storedOutcome(receipt, upload.touchedTiers, this.tierNames);
    const from = this.tier(receipt.tier);
    const open = () => from.read(objectKey(key), signal);
    const tried = await this.try(upload, { facts: factsOf(upload), open, signal }, everyTier, better);
    if ('reasons' in tried) {
      const outcome = failedOutcome(better, tried.reasons);
      await markTried(pool, key, { error: outcome.error, attempts: upload.attempts });
      return outcome;
    }
    const promote = tiersAbove(tried.tier, this.tierNames).length > 0;
    const now = await withClient(pool, (client) =>
      markPromoted(client, key, receipt.tier, { ...tried, promote }),
    );
    if (!now?.receipt) throw new OrchestratorError('upload_refused', `this upload is ${now?.state}`);
    if (now.receipt.tier === tried.tier)
      count('uploads_promoted', 'uploads that were brought to a better tier', { tier: tried.tier });
    return storedOutcome(now.receipt, now.touchedTiers, this.tierNames);
  }

  async clear(key: string, signal: AbortSignal): Promise<void> {
    const { receipt, touchedTiers } = await this.read(key);
    if (!receipt) return;
    for (const name of tiersBelow(receipt.tier, touchedTiers)) {
      await this.tier(name).remove(objectKey(key), signal);
      await markCleared(this.dependencies.pool, key, [name]);
    }
  }

  async verify(key: string, signal: AbortSignal): Promise<UploadReceipt> {
    const upload = await this.read(key);
    const { receipt } = upload;
    if (!receipt) throw new OrchestratorError('upload_refused', `this upload is ${upload.state}`);
    const copy = await this.tier(receipt.tier).verify(objectKey(key), factsOf(upload), signal);
    if (copy) return receipt;
    throw new OrchestratorError('upload_corrupt', `${receipt.location} is not there any more`);
  }

  /** The tiers of `among`, best first; those that are not worth it, only if a person wants it. */
  private async try(
    upload: Upload,
    toStore: ToStore,
    everyTier: boolean,
    among: readonly TierName[] = this.tierNames,
  ) {
    const { pool, tiers, tiersWorthTrying, limitMs = tierLimitMs } = this.dependencies;
    const worth = everyTier ? this.tierNames : await tiersWorthTrying();
    const chosen = tiers.filter(({ name }) => among.includes(name));
    return tryTiers({ pool, tiers: chosen, worth, key: upload.idempotencyKey, toStore, limitMs });
  }

  private async stored(upload: Upload, receipt: UploadReceipt): Promise<StoredOutcome> {
    await this.release(upload).catch((error: unknown) => {
      // The janitor finds it.
      log.warn('a spool file stays', { error: describeError(error) });
    });
    return storedOutcome(receipt, upload.touchedTiers, this.tierNames);
  }

  /** The spool's file has served, unless another upload waits for it. */
  private async release({ idempotencyKey, dataRef }: Upload): Promise<void> {
    const { pool, sources } = this.dependencies;
    if (dataRef !== null && !(await isReferenceNeeded(pool, dataRef, idempotencyKey)))
      await sources.release(dataRef);
  }

  private async failed(
    { idempotencyKey }: Upload,
    outcome: FailedOutcome,
    attempt: number,
  ): Promise<FailedOutcome> {
    const attempts = outcome.kind === 'refused' ? attempt : attempt - 1;
    await markTried(this.dependencies.pool, idempotencyKey, { error: outcome.error, attempts });
    return outcome;
  }

  private async read(key: string): Promise<Upload> {
    const upload = await readUpload(this.dependencies.pool, key);
    if (upload) return upload;
    throw new OrchestratorError('upload_refused', 'there is no upload under this key');
  }

  /** @throws OrchestratorError storage_unavailable: another worker may have it */
  private tier(name: TierName): StorageTier {
    const tier = this.dependencies.tiers.find((one) => one.name === name);
    if (tier) return tier;
    throw new OrchestratorError('storage_unavailable', `this worker is not configured for the tier ${name}`);
  }
}

const count = (name: string, description: string, tags: Record<string, string>): void =>
  metricMeter.createCounter(name, undefined, description).add(1, tags);
