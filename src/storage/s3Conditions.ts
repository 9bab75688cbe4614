import { PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { isPreconditionFailed } from './s3Failures.ts';

/** Beside the uploads, not among them. It stays: where the condition is honoured, trying again writes nothing. */
const MARKER = 'uploads-canary/if-none-match';
const CONTENT = 'Whether this S3 honours If-None-Match is found out by creating this object a second time.\n';

/** How long an answer counts: an older server may take over, or a proxy come between. */
const KNOWN_MS = 60_000;
const TRIAL_MS = 5_000;

/**
 * Whether an S3 honours `If-None-Match: *` for this bucket. A server, or a proxy before it, may ignore the header without
 * a word, so only a trial is believed: of creating one object twice, the second must be refused.
 *
 *   unknown ──asked──> trial ──412──> honoured ──60 s, forget()──> unknown
 *                        └──else──> not honoured ──60 s──> unknown
 *
 * A trial goes on beside the work, which does not wait for it: until its end the answer is no.
 */
export class CreateConditions {
  private readonly client: S3Client;
  private readonly bucket: string;
  /** undefined: unknown, and nobody is trying. */
  private trial: { honoured: boolean; until: number } | undefined;

  constructor(client: S3Client, bucket: string) {
    this.client = client;
    this.bucket = bucket;
  }

  /** Whether a trial within the last minute said so. Begins one where there is none. */
  areHonoured(): boolean {
    if (this.trial && performance.now() < this.trial.until) return this.trial.honoured;
    this.trial = { honoured: false, until: Number.POSITIVE_INFINITY };
    void this.try(this.trial);
    return false;
  }

  /** After an error another server may answer. What is being tried counts no more. */
  forget(): void {
    this.trial = undefined;
  }

  private async try(trial: { honoured: boolean; until: number }): Promise<void> {
    const signal = AbortSignal.timeout(TRIAL_MS);
    // If the first one finds the marker of an earlier trial, it is the second.
    trial.honoured = (await this.isRefused(signal)) || (await this.isRefused(signal));
    trial.until = performance.now() + KNOWN_MS;
  }

  /** Whether the marker is not created because it is there. */
  private async isRefused(abortSignal: AbortSignal): Promise<boolean> {
    const marker = { Bucket: this.bucket, Key: MARKER, Body: CONTENT, IfNoneMatch: '*' };
    try {
      await this.client.send(new PutObjectCommand(marker), { abortSignal });
      return false;
    } catch (error) {
      return isPreconditionFailed(error);
    }
  }
}
