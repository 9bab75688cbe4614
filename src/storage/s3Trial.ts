import { createHash } from 'node:crypto';
import type { S3Client } from '@aws-sdk/client-s3';
import { putObject } from './s3Client.ts';
import { isCorrupt, isPreconditionFailed } from './s3Failures.ts';

/** Beside the uploads, not among them. The first one stays: where its condition is honoured, trying again writes nothing. */
const CREATED = 'uploads-canary/if-none-match';
const CORRUPT = 'uploads-canary/checksum';
const CONTENT =
  'By this object it is found out what this S3 honours: If-None-Match, and the SHA-256 of the body.\n';

/** How long an answer counts: an older server may take over, or a proxy come between. */
const KNOWN_MS = 60_000;
const TRIAL_MS = 5_000;

/** What an S3 is known to honour; a server, or a proxy before it, may ignore each of them without a word. */
export interface Honoured {
  /** Of creating one object twice (`If-None-Match: *`), the second is refused. */
  conditions: boolean;
  /** A body that is not signed, and has another SHA-256 than its signed header says, is refused. */
  checksums: boolean;
}

const NOTHING: Honoured = { conditions: false, checksums: false };

/**
 * What an S3 honours for one bucket. Nothing is believed but trials.
 *
 *   unknown ──asked──> trial ──> known ──60 s, forget()──> unknown
 *
 * A trial goes on beside the work, which does not wait for it: until its end S3 honours nothing.
 */
export class S3Trial {
  private readonly client: S3Client;
  private readonly bucket: string;
  /** undefined: unknown, and nobody is trying. */
  private trial: { honoured: Honoured; until: number } | undefined;

  constructor(client: S3Client, bucket: string) {
    this.client = client;
    this.bucket = bucket;
  }

  /** What a trial within the last minute said. Begins one where there is none. */
  honoured(): Honoured {
    if (this.trial && performance.now() < this.trial.until) return this.trial.honoured;
    this.trial = { honoured: NOTHING, until: Number.POSITIVE_INFINITY };
    void this.try(this.trial);
    return NOTHING;
  }

  /** After an error another server may answer. What is being tried counts no more. */
  forget(): void {
    this.trial = undefined;
  }

  private async try(trial: { honoured: Honoured; until: number }): Promise<void> {
    const signal = AbortSignal.timeout(TRIAL_MS);
    const checksums = await this.isRefused(CORRUPT, `not ${CONTENT}`, isCorrupt, signal);
    // If the first one finds the object of an earlier trial, it is the second.
    const isSecondRefused = () => this.isRefused(CREATED, CONTENT, isPreconditionFailed, signal);
    const conditions = (await isSecondRefused()) || (await isSecondRefused());
    trial.honoured = { conditions, checksums };
    trial.until = performance.now() + KNOWN_MS;
  }

  /** Whether S3 takes no such object, for this reason. Its header says the SHA-256 of CONTENT, whatever the body is. */
  private async isRefused(
    Key: string,
    Body: string,
    is: (error: unknown) => boolean,
    abortSignal: AbortSignal,
  ): Promise<boolean> {
    const ChecksumSHA256 = createHash('sha256').update(CONTENT).digest('base64');
    const condition = Key === CREATED ? { IfNoneMatch: '*' } : {};
    const object = { Bucket: this.bucket, Key, Body, ChecksumSHA256, ...condition };
    try {
      await putObject(this.client, object, Key === CORRUPT, abortSignal);
      return false;
    } catch (error) {
      return is(error);
    }
  }
}
