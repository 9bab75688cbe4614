import { cancellationSignal, heartbeat, metricMeter } from '@temporalio/activity';
import type pg from 'pg';
import { fromPostgres, withClient } from '../database/postgres.ts';
import { markCleared, markPromoted, markStored, markTried, objectKey } from '../database/uploadOutcomes.ts';
import { readUpload } from '../database/uploads.ts';
import { OrchestratorError } from '../domain/errors.ts';
import {
  MAX_BYTES_AT_ONCE,
  type TierName,
  tiersAbove,
  tiersBelow,
  type Upload,
  type UploadReceipt,
} from '../domain/uploads.ts';
import {
  type FailedOutcome,
  failedOutcome,
  type StoredOutcome,
  storedOutcome,
  type TierReason,
  type TryOutcome,
} from '../domain/uploadTries.ts';
import type { ByteSource } from '../storage/byteSource.ts';
import type { StorageTier, StoredCopy } from '../storage/tier.ts';
import { SourceError, type UploadSources } from '../storage/uploadSources.ts';
import { toFailure, workerStops } from './failure.ts';
import {
  examined,
  factsOf,
  type ToStore,
  tierLimitMs,
  tryTiers,
  UploadSource,
  unlessAborted,
  within,
} from './uploadRound.ts';

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

type Copied = StoredCopy & { tier: TierName };
type Tried = Copied | { reasons: TierReason[] };

const BEAT_MS = 1_000;

/** The long ones, for a queue of their own: they carry bytes, and nothing else does. */
export function createUploadBytesActivities(bytes: UploadBytes) {
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
    return await unlessAborted(signal, work);
  } catch (error) {
    if (!signal.aborted) throw toFailure(fromPostgres(error));
    throw signal.reason?.message === 'WORKER_SHUTDOWN' ? workerStops() : signal.reason;
  } finally {
    clearInterval(beating);
  }
}

/** What is done with the bytes of uploads, each step with the row before and after it. */
export class UploadBytes {
  private readonly dependencies: UploadBytesDependencies;
  private readonly tierNames: TierName[];
  private readonly limitMs: (size: number) => number;

  constructor(dependencies: UploadBytesDependencies) {
    this.dependencies = dependencies;
    this.tierNames = dependencies.tiers.map(({ name }) => name);
    this.limitMs = dependencies.limitMs ?? tierLimitMs;
  }

  async store(
    { key, everyTier, attempt }: UploadRound & { attempt: number },
    signal: AbortSignal,
  ): Promise<TryOutcome> {
    const upload = await this.read(key);
    // The earlier attempt of this activity stored it, and its answer was lost.
    if (upload.receipt) return storedOutcome(upload.receipt, upload.touchedTiers, this.tierNames);
    if (upload.state !== 'waiting')
      throw new OrchestratorError('upload_refused', `this upload is ${upload.state}`);
    const tried = await this.round(upload, everyTier, signal);
    if ('reasons' in tried)
      return await this.failed(upload, failedOutcome(this.tierNames, tried.reasons), attempt);
    return await this.stored(key, tried, attempt);
  }

  /**
   * A round for what fits into memory: stored, or null, and nothing is told of it. So it may be repeated at will, and
   * nobody waits longer for it than `signal` says.
   */
  async storeAtOnce(upload: Upload, signal: AbortSignal): Promise<StoredOutcome | null> {
    if (upload.state !== 'waiting' || upload.size > MAX_BYTES_AT_ONCE) return null;
    try {
      const tried = await this.round(upload, false, signal);
      if ('reasons' in tried) return null;
      // Nobody waits for it any more: the long way is about to find the copy.
      signal.throwIfAborted();
      return await this.stored(upload.idempotencyKey, tried, upload.attempts + 1);
    } catch {
      // Whatever it is, the long way meets it, and tells it.
      return null;
    }
  }

  /** One round over the tiers. @throws what is no tier's fault, nor an outage of the source */
  private async round(upload: Upload, everyTier: boolean, signal: AbortSignal): Promise<Tried> {
    const { pool, sources } = this.dependencies;
    const source = new UploadSource(pool, sources, upload);
    try {
      const facts = await examined(pool, source, upload, signal, this.limitMs(upload.size));
      const open = (limited: AbortSignal) => source.open(limited);
      const tried = await this.try(upload, { facts, open, signal }, everyTier);
      if ('reasons' in tried && source.error) throw source.error;
      return tried;
    } catch (error) {
      // The source's outages are waited for as the tiers' are.
      if (!(error instanceof SourceError) || !error.retryable) throw error;
      return { reasons: [{ tier: 'source', code: 'storage_unavailable', message: error.message }] };
    }
  }

  private async stored(key: string, copy: Copied, attempt: number): Promise<StoredOutcome> {
    const promote = tiersAbove(copy.tier, this.tierNames).length > 0;
    const now = await withClient(this.dependencies.pool, (client) =>
      markStored(client, key, attempt, { ...copy, promote }),
    );
    if (!now?.receipt) throw new OrchestratorError('upload_refused', `this upload is ${now?.state}`);
    count('uploads_stored', 'uploads that a tier has verified', { tier: copy.tier });
    return storedOutcome(now.receipt, now.touchedTiers, this.tierNames);
  }

  async promote({ key, everyTier }: UploadRound, signal: AbortSignal): Promise<TryOutcome> {
    const { pool } = this.dependencies;
    const upload = await this.read(key);
    const { receipt } = upload;
    if (!receipt) throw new OrchestratorError('upload_refused', `this upload is ${upload.state}`);
    const better = tiersAbove(receipt.tier, this.tierNames);
    // The earlier attempt of this activity did it, and its answer was lost.
    if (better.length === 0) return storedOutcome(receipt, upload.touchedTiers, this.tierNames);
    const open = (limited: AbortSignal) => this.storedBytes(upload, receipt.tier, limited);
    const toStore = { facts: factsOf(upload), open, signal };
    // Where all that is below is lost, the upload keeps saying so.
    const tried = await this.try(upload, toStore, everyTier, better).catch(ofSource);
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
      const tier = this.tier(name);
      await within(this.limitMs(0), signal, (limited) => tier.remove(objectKey(key), limited));
      await markCleared(this.dependencies.pool, key, [name]);
    }
  }

  async verify(key: string, signal: AbortSignal): Promise<UploadReceipt> {
    const upload = await this.read(key);
    const { receipt } = upload;
    if (!receipt) throw new OrchestratorError('upload_refused', `this upload is ${upload.state}`);
    const tier = this.tier(receipt.tier);
    const copy = await within(this.limitMs(upload.size), signal, (limited) =>
      tier.verify(objectKey(key), factsOf(upload), limited),
    );
    if (copy) return receipt;
    throw new OrchestratorError('upload_corrupt', `${receipt.location} is not there any more`);
  }

  /** The tiers of `among`, best first; those that are not worth it, only if a person wants it. */
  private async try(
    upload: Upload,
    toStore: ToStore,
    everyTier: boolean,
    among: readonly TierName[] = this.tierNames,
  ): Promise<Tried> {
    const { pool, tiers, tiersWorthTrying } = this.dependencies;
    const worth = everyTier ? this.tierNames : await tiersWorthTrying();
    const chosen = tiers.filter(({ name }) => among.includes(name));
    const { limitMs } = this;
    return tryTiers({ pool, tiers: chosen, worth, key: upload.idempotencyKey, toStore, limitMs });
  }

  /** Redis may have lost or changed its copy, or be away: what the upload came with was kept. */
  private async storedBytes(upload: Upload, name: TierName, signal: AbortSignal): Promise<ByteSource> {
    const tier = this.tier(name);
    const key = objectKey(upload.idempotencyKey);
    const isThere =
      name !== 'redis' || (await tier.verify(key, factsOf(upload), signal).catch(() => undefined));
    signal.throwIfAborted();
    if (isThere) return tier.read(key, signal);
    const { pool, sources } = this.dependencies;
    return new UploadSource(pool, sources, upload).open(signal);
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

function ofSource(error: unknown): { reasons: TierReason[] } {
  if (!(error instanceof SourceError)) throw error;
  const code = error.retryable ? 'storage_unavailable' : 'storage_refused';
  return { reasons: [{ tier: 'source', code, message: error.message }] };
}

const count = (name: string, description: string, tags: Record<string, string>): void =>
  metricMeter.createCounter(name, undefined, description).add(1, tags);
