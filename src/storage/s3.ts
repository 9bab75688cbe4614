import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  type HeadObjectCommandOutput,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { ByteSource } from './byteSource.ts';
import { digestOf, inOne, inPortions, isSame, promisedBytes } from './digest.ts';
import { brokenCopy, bytesOf, checkKey, inPlace, noCopy, type Place, takenKey } from './failures.ts';
import { type BorrowedMemory, PortionMemory } from './portionMemory.ts';
import { connect, putObject, type S3Settings } from './s3Client.ts';
import { diagnoseS3, isConflict, isMissing } from './s3Failures.ts';
import { abortUpload, MAX_PARTS, PARTS_HELD, putInParts, strandedUploads } from './s3Multipart.ts';
import { compareChecksums, type OwnChecksums, objectHeaders, sha256Checksum } from './s3Objects.ts';
import { S3Trial } from './s3Trial.ts';
import type { StorageTier, StoredCopy, StoredFacts, StrandedUpload } from './tier.ts';

export interface S3Limits {
  /** Larger files go in parts of this, each held in memory: two on the way and one being filled. S3's least is 5 MiB. */
  partBytes: number;
  /** An S3 that sends and takes nothing for so long is away. */
  silenceMs: number;
}

const LIMITS: S3Limits = { partBytes: 8 * 1024 * 1024, silenceMs: 30_000 };

/** How often an upload begins anew because another one for the same key came in between. */
const MAX_CONFLICTS = 5;

/** Some servers replace an object by removing it first: who looks between sees nothing for a moment. */
const LOOKS = 5;
const LOOK_AGAIN_MS = 100;
/** How long a look takes at most that only tells two errors apart. */
const LOOK_MS = 5_000;

const PREFIX = 'uploads/';
/** Only such names are ours: others may keep theirs below the same prefix. */
const OWN_NAME = /^uploads\/[0-9a-f]{64}$/;

interface Target {
  Bucket: string;
  Key: string;
}

/**
 * Objects `uploads/<key>` of one bucket.
 *
 * S3 is asked to create conditionally (If-None-Match). A look comes before, unless the file is small and S3 is known to
 * honour the condition: some servers ignore it. Beside a large file a look costs nothing, and may save sending it.
 * Every request carries a checksum that S3 compares with what it received: SHA-256, or for parts CRC32, the only kind
 * that S3 can tell of a whole object in parts. What it says of the object afterwards decides whether that is stored.
 */
export class S3Tier implements StorageTier {
  readonly name = 's3';
  private readonly client: S3Client;
  private readonly bucket: string;
  private readonly limits: S3Limits;
  private readonly trial: S3Trial;
  private readonly memory: PortionMemory;
  private readonly place: Place;

  constructor(settings: S3Settings, limits: Partial<S3Limits> = {}) {
    this.bucket = settings.bucket;
    this.limits = { ...LIMITS, ...limits };
    this.client = connect(settings, this.limits.silenceMs);
    this.trial = new S3Trial(this.client, settings.bucket);
    this.memory = new PortionMemory(this.limits.partBytes);
    const title = `S3 bucket ${settings.bucket} at ${new URL(settings.endpoint).host}`;
    this.place = { title, diagnose: diagnoseS3 };
  }

  store(key: string, open: () => Promise<ByteSource>, facts: StoredFacts, signal: AbortSignal) {
    const target = this.target(key);
    return inPlace(this.place, signal, async () => {
      const isSmall = facts.size <= this.limits.partBytes;
      let looks = !(isSmall && this.trial.honoured().conditions);
      for (let conflicts = 0; ; conflicts += 1) {
        const found = looks ? await this.head(target, signal) : undefined;
        if (found && (await this.isGood(target, found, facts, sha256Checksum(facts), signal)))
          return this.copy(target);
        let own: OwnChecksums;
        const memory = this.memory.borrow();
        try {
          // A broken copy of the same file is replaced.
          own = await this.put(target, open, facts, memory, found === undefined, signal);
        } catch (error) {
          const isTaken = await this.isTaken(target, error, found === undefined, signal);
          if (!isTaken || conflicts === MAX_CONFLICTS) throw error;
          looks = true;
          continue;
        }
        const copy = await this.confirm(target, facts, own, signal);
        // S3 has it all, so nothing more is read from it.
        memory.giveBack();
        return copy;
      }
    });
  }

  verify(key: string, facts: StoredFacts, signal: AbortSignal) {
    const target = this.target(key);
    return inPlace(this.place, signal, async () => {
      const bytes = await this.get(target, signal);
      if (!bytes) return undefined;
      if (!isSame(await digestOf(bytes), facts))
        throw brokenCopy(this.place, target.Key, 'reads back as other bytes');
      return this.copy(target);
    });
  }

  read(key: string, signal: AbortSignal) {
    const target = this.target(key);
    return inPlace(this.place, signal, async () => {
      const bytes = await this.get(target, signal);
      if (!bytes) throw noCopy(this.place, key);
      return bytesOf(this.place, bytes);
    });
  }

  remove(key: string, signal: AbortSignal) {
    const target = this.target(key);
    return inPlace(this.place, signal, async () => {
      await this.client.send(new DeleteObjectCommand(target), { abortSignal: signal });
    });
  }

  stranded(before: number, signal: AbortSignal) {
    const { client, bucket, place } = this;
    return inPlace(place, signal, async () => {
      const found: StrandedUpload[] = [];
      for await (const { Key, UploadId, since } of strandedUploads(client, bucket, PREFIX, before, signal)) {
        if (!Key || !OWN_NAME.test(Key)) continue;
        const upload = { Bucket: bucket, Key, UploadId };
        found.push({
          name: `s3://${bucket}/${Key} (multipart upload ${UploadId})`,
          since,
          remove: (ending) => inPlace(place, ending, () => abortUpload(client, upload, ending)),
        });
      }
      return found;
    });
  }

  private target(key: string): Target {
    return { Bucket: this.bucket, Key: PREFIX + checkKey(key) };
  }

  private async put(
    target: Target,
    open: () => Promise<ByteSource>,
    facts: StoredFacts,
    memory: BorrowedMemory,
    isNew: boolean,
    signal: AbortSignal,
  ): Promise<OwnChecksums> {
    const { partBytes } = this.limits;
    const bytes = promisedBytes(open, facts, signal);
    const condition = isNew ? { IfNoneMatch: '*' } : {};
    const object = { ...target, ...condition, ...objectHeaders(facts) };
    if (facts.size > partBytes) {
      const bytesEach = Math.max(partBytes, Math.ceil(facts.size / MAX_PARTS));
      return putInParts(this.client, object, inPortions(bytes, bytesEach, PARTS_HELD, memory.take), signal);
    }
    const own = sha256Checksum(facts);
    const whole = { ...object, ...own, Body: await inOne(bytes, memory.take(facts.size)) };
    await putObject(this.client, whole, this.trial.honoured().checksums, signal);
    return own;
  }

  /**
   * Whether a put failed because there is an object. A server that says so before it has read the body may close the
   * connection, and the answer is lost; and where nobody looked before, the object may be there with all its bytes,
   * whatever the source says today.
   */
  private async isTaken(
    target: Target,
    error: unknown,
    isNew: boolean,
    signal: AbortSignal,
  ): Promise<boolean> {
    signal.throwIfAborted();
    if (isConflict(error)) return true;
    this.trial.forget();
    if (!isNew) return false;
    const briefly = AbortSignal.any([signal, AbortSignal.timeout(LOOK_MS)]);
    return (await this.head(target, briefly).catch(() => undefined)) !== undefined;
  }

  /** S3 said that it stored the object; this is what it says when it is asked. */
  private async confirm(
    target: Target,
    facts: StoredFacts,
    own: OwnChecksums,
    signal: AbortSignal,
  ): Promise<StoredCopy> {
    let found: HeadObjectCommandOutput | undefined;
    for (let looks = 0; looks < LOOKS && !found; looks += 1) {
      if (looks > 0) await delay(LOOK_AGAIN_MS, undefined, { signal });
      found = await this.head(target, signal);
    }
    if (!found) throw brokenCopy(this.place, target.Key, 'is not there, though S3 said that it was stored');
    if (await this.isGood(target, found, facts, own, signal)) return this.copy(target);
    throw brokenCopy(this.place, target.Key, 'is not what was sent');
  }

  /**
   * Whether the object has the bytes: by what S3 says of it, or by reading it where S3 says too little.
   * @throws OrchestratorError upload_refused: it has others, and was not put there as this file
   */
  private async isGood(
    target: Target,
    found: HeadObjectCommandOutput,
    facts: StoredFacts,
    own: OwnChecksums,
    signal: AbortSignal,
  ): Promise<boolean> {
    const claimed = found.Metadata?.sha256;
    const others = claimed !== undefined && claimed !== facts.sha256;
    const good =
      !others &&
      found.ContentLength === facts.size &&
      (await this.hasBytes(target, found, facts, own, signal));
    if (!good && claimed !== facts.sha256) throw takenKey(this.place, target.Key);
    return good;
  }

  private async hasBytes(
    target: Target,
    found: HeadObjectCommandOutput,
    facts: StoredFacts,
    own: OwnChecksums,
    signal: AbortSignal,
  ): Promise<boolean> {
    const told = compareChecksums(own, found);
    if (told !== 'unknown') return told === 'same';
    const bytes = await this.get(target, signal);
    return bytes !== undefined && isSame(await digestOf(bytes), facts);
  }

  private async head(target: Target, abortSignal: AbortSignal): Promise<HeadObjectCommandOutput | undefined> {
    try {
      return await this.client.send(new HeadObjectCommand({ ...target, ChecksumMode: 'ENABLED' }), {
        abortSignal,
      });
    } catch (error) {
      // An answer to HEAD has no text: a bucket that is not there is told by the next request.
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  private async get(target: Target, abortSignal: AbortSignal): Promise<Readable | undefined> {
    try {
      const { Body } = await this.client.send(new GetObjectCommand(target), { abortSignal });
      return Body as Readable;
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  private copy({ Bucket, Key }: Target): StoredCopy {
    return {
      location: `s3://${Bucket}/${Key}`,
      durability: `${this.place.title}: as safe as that store keeps it`,
    };
  }
}
