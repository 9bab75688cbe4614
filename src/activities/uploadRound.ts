import { Readable } from 'node:stream';
import type pg from 'pg';
import { fromPostgres } from '../database/postgres.ts';
import { markExamined, markTouched, objectKey } from '../database/uploadOutcomes.ts';
import { readUploadBytes } from '../database/uploads.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { MAX_BYTES_AT_ONCE, type TierName, type Upload } from '../domain/uploads.ts';
import type { TierReason } from '../domain/uploadTries.ts';
import type { ByteSource } from '../storage/byteSource.ts';
import { digestOf, inOne } from '../storage/digest.ts';
import type { StorageTier, StoredCopy, StoredFacts } from '../storage/tier.ts';
import { isFile, SourceError, type UploadSources } from '../storage/uploadSources.ts';

/** Bytes, and what they have to be. */
export interface ToStore {
  facts: StoredFacts;
  /** Opens them anew for each tier, until `signal` aborts. */
  open(signal: AbortSignal): Promise<ByteSource>;
  signal: AbortSignal;
}

/** Where an upload's bytes come from: its row, or its reference. Few bytes from far away are read once, and then kept in memory. */
export class UploadSource {
  /** What kept the bytes from being read: then no tier is to blame. */
  error: SourceError | undefined;
  private readonly pool: pg.Pool;
  private readonly sources: UploadSources;
  private readonly upload: Upload;
  private kept: Buffer | undefined;

  constructor(pool: pg.Pool, sources: UploadSources, upload: Upload) {
    this.pool = pool;
    this.sources = sources;
    this.upload = upload;
  }

  /** @throws SourceError; OrchestratorError postgres_unavailable, postgres_refused, upload_refused */
  async open(signal: AbortSignal): Promise<ByteSource> {
    const { dataRef, size } = this.upload;
    if (dataRef !== null && (size > MAX_BYTES_AT_ONCE || isFile(dataRef)))
      return this.referred(dataRef, signal);
    this.kept ??= dataRef === null ? await this.ownBytes() : await this.inMemory(dataRef, signal);
    return Readable.from(this.kept.length > 0 ? [this.kept] : [], { objectMode: false });
  }

  private async referred(dataRef: string, signal: AbortSignal): Promise<ByteSource> {
    const bytes = await this.noted(() => this.sources.open(dataRef, this.upload.size, signal));
    const chunks = bytes[Symbol.asyncIterator]();
    const next = () => this.noted(() => chunks.next());
    const destroy = () => bytes.destroy();
    const end = async () => {
      destroy();
      return { done: true as const, value: undefined };
    };
    return { [Symbol.asyncIterator]: () => ({ next, return: end }), destroy };
  }

  private async inMemory(dataRef: string, signal: AbortSignal): Promise<Buffer> {
    return await inOne(await this.referred(dataRef, signal), Buffer.alloc(this.upload.size));
  }

  private async ownBytes(): Promise<Buffer> {
    const bytes = await readUploadBytes(this.pool, this.upload.idempotencyKey).catch((error: unknown) => {
      // A tier would take it for bytes that break off.
      throw fromPostgres(error);
    });
    if (bytes === null) throw new OrchestratorError('upload_refused', 'the row has no bytes any more');
    return bytes;
  }

  private async noted<T>(reading: () => Promise<T>): Promise<T> {
    try {
      return await reading();
    } catch (error) {
      if (error instanceof SourceError) this.error = error;
      throw error;
    }
  }
}

/**
 * What the bytes are; read once to know it, where a message brought a reference only.
 * @throws SourceError, also if that does not end within `limitMs`
 */
export async function examined(
  pool: pg.Pool,
  source: UploadSource,
  upload: Upload,
  signal: AbortSignal,
  limitMs: number,
): Promise<StoredFacts> {
  if (upload.sha256 !== null) return factsOf(upload);
  const read = async (limited: AbortSignal) => digestOf(await source.open(limited));
  const { sha256 } = await within(limitMs, signal, read, SourceError);
  await markExamined(pool, upload.idempotencyKey, sha256);
  return factsOf({ ...upload, sha256 });
}

export const factsOf = ({ size, sha256, filename, contentType }: Upload): StoredFacts => ({
  size,
  sha256: sha256!,
  filename,
  contentType,
});

export interface Round {
  pool: pg.Pool;
  /** Best first. */
  tiers: readonly StorageTier[];
  worth: readonly TierName[];
  /** The upload's. */
  key: string;
  toStore: ToStore;
  /** A tier that has not ended by then, for so many bytes, is away. */
  limitMs(size: number): number;
}

/** Five minutes, and a second for each megabyte, at most a day: a mount or a server that hangs keeps no upload from the other tiers. */
export const tierLimitMs = (size: number): number => Math.min(300_000 + size / 1_000, 86_400_000);

/** Tries one tier after the other until one has verified the bytes. @throws what is no tier's fault */
export async function tryTiers({
  pool,
  tiers,
  worth,
  key,
  toStore,
  limitMs,
}: Round): Promise<(StoredCopy & { tier: TierName }) | { reasons: TierReason[] }> {
  const reasons: TierReason[] = [];
  const { facts, signal } = toStore;
  for (const tier of tiers) {
    const { name } = tier;
    if (!worth.includes(name)) {
      reasons.push({ tier: name, code: 'untried', message: 'its health says that it is not worth a try' });
      continue;
    }
    await markTouched(pool, key, name);
    try {
      const copy = await within(limitMs(facts.size), signal, (limited) =>
        tier.store(objectKey(key), () => toStore.open(limited), facts, limited),
      );
      return { ...copy, tier: name };
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof SourceError || isPostgres(error)) throw error;
      reasons.push(reasonOf(name, error));
    }
  }
  return { reasons };
}

/** The row itself could not be read: no tier is to blame, and nothing is spent. */
const isPostgres = (error: unknown): boolean =>
  error instanceof OrchestratorError && ['postgres_unavailable', 'postgres_refused'].includes(error.code);

/** Ends when `work` does, at the latest when the time is over or `signal` aborts. @throws a `Late` storage_unavailable */
export async function within<T>(
  limitMs: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
  Late = OrchestratorError,
): Promise<T> {
  const late = new Late('storage_unavailable', `it did not end within ${Math.round(limitMs / 1000)} s`);
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(late), limitMs);
  const limited = AbortSignal.any([signal, limit.signal]);
  try {
    return await unlessAborted(limited, work);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Ends when `work` does, at the latest when `signal` aborts: nothing can call back a file operation on a mount that
 * hangs, so it is left behind. Each step asks for the state that it starts from, so whatever it does later does no harm.
 */
export async function unlessAborted<T>(
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const aborted = new Promise<never>((_, reject) =>
    signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
  );
  return await Promise.race([work(signal), aborted]);
}

/** An error that a tier does not know is no definite no: the next one is tried, and later this one again. */
function reasonOf(tier: TierName, error: unknown): TierReason {
  if (error instanceof OrchestratorError) {
    const { code, message } = error;
    if (code === 'storage_refused' || code === 'upload_corrupt') return { tier, code, message };
    // Under the key are bytes of another file.
    if (code === 'upload_refused') return { tier, code: 'storage_refused', message };
    return { tier, code: 'storage_unavailable', message };
  }
  return { tier, code: 'storage_unavailable', message: describeError(error) };
}
