import type { Readable } from 'node:stream';
import type { TierName } from '../domain/uploads.ts';
import type { ByteSource } from './byteSource.ts';

/** What a tier is told of the bytes that it shall keep. */
export interface StoredFacts {
  /** In bytes. */
  size: number;
  /** In hex. */
  sha256: string;
  filename: string;
  contentType: string | null;
}

/** What a tier says of bytes that it has verified. */
export interface StoredCopy {
  /** `s3://bucket/key`, `file:///…` or `redis://host:port/db/key`; without credentials. */
  location: string;
  /** How safe the bytes are there, in a sentence for people. */
  durability: string;
}

/**
 * A place for the bytes of uploads. All tiers pass one conformance suite.
 *
 * A tier says `stored` only of bytes that it has verified by what the place itself says afterwards (its own checksum of
 * what it received, or a read-back). `key` is 64 hex digits, so no name of a user's ever becomes a path.
 */
export interface StorageTier {
  readonly name: TierName;
  /**
   * Streams the bytes of `open` to the key and verifies them there. If the key is there already with the same bytes,
   * nothing is written and that copy is verified and returned; what is half-written is never visible under the key.
   * @throws OrchestratorError storage_unavailable (an outage: another try, or another tier, may do), storage_refused (a
   *   definite no: forbidden, no such bucket, full, too large for the tier), upload_corrupt (the bytes read from `open`,
   *   or the bytes found in the tier, are not those of `facts`), upload_refused (another file's bytes have the key);
   *   the reason of `signal`, if that aborts; OrchestratorErrors of `open` and of its stream as they are
   */
  store(
    key: string,
    open: () => Promise<ByteSource>,
    facts: StoredFacts,
    signal: AbortSignal,
  ): Promise<StoredCopy>;
  /** The copy under the key once more verified, byte by byte; undefined if there is none. Errors as in `store`. */
  verify(key: string, facts: StoredFacts, signal: AbortSignal): Promise<StoredCopy | undefined>;
  /** The bytes under the key. Errors as in `store`; storage_refused if there are none. */
  read(key: string, signal: AbortSignal): Promise<Readable>;
  /** Removes the copy under the key, if there is one. */
  remove(key: string, signal: AbortSignal): Promise<void>;
  /** Uploads begun before `before` (epoch ms) and never finished; `remove` of each makes it go. */
  stranded(before: number, signal: AbortSignal): Promise<StrandedUpload[]>;
}

export interface StrandedUpload {
  /** For people. */
  name: string;
  since: Date;
  remove(signal: AbortSignal): Promise<void>;
}
