import { randomUUID } from 'node:crypto';
import { DeleteObjectCommand, GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import type { ProbeTarget } from './target.ts';

type S3Target = Extract<ProbeTarget, { kind: 's3' }>;

/** How long an object is tried to be deleted when its probe has failed already. */
const CLEANUP_MS = 2_000;

/**
 * Puts a small object, gets it back and deletes it, each in one attempt. Only an S3 that answers too late, or dies in
 * between, keeps the object: look below `health/` then.
 * @throws what kept S3 from storing, or that it gave something else back
 */
export async function probeS3(target: S3Target, signal: AbortSignal): Promise<void> {
  const client = connectionTo(target);
  const object = { Bucket: target.bucket, Key: `health/canary-${randomUUID()}` };
  const remove = (abortSignal: AbortSignal) => client.send(new DeleteObjectCommand(object), { abortSignal });
  try {
    await putAndGet(client, object, signal);
    await remove(signal);
  } catch (error) {
    await remove(AbortSignal.timeout(CLEANUP_MS)).catch(() => {});
    throw error;
  } finally {
    client.destroy();
  }
}

async function putAndGet(
  client: S3Client,
  object: { Bucket: string; Key: string },
  abortSignal: AbortSignal,
): Promise<void> {
  const content = randomUUID();
  await client.send(new PutObjectCommand({ ...object, Body: content }), { abortSignal });
  const { Body } = await client.send(new GetObjectCommand(object), { abortSignal });
  if ((await Body?.transformToString()) !== content)
    throw new Error('what was written reads back as something else');
}

function connectionTo({ endpoint, accessKeyId, secretAccessKey }: S3Target): S3Client {
  return new S3Client({
    endpoint,
    forcePathStyle: true,
    // Servers other than Amazon's ignore it, but requests are signed for one.
    region: 'us-east-1',
    credentials: { accessKeyId, secretAccessKey },
    maxAttempts: 1,
    // Some of them refuse the checksums that the SDK adds by default.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
}
