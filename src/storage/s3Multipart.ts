import { crc32 } from 'node:zlib';
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  type PutObjectCommandInput,
  type S3Client,
} from '@aws-sdk/client-s3';
import { putPart } from './s3Client.ts';
import { isCorrupt } from './s3Failures.ts';
import type { OwnChecksums } from './s3Objects.ts';

/** S3 takes 10,000 in one upload; the last number is that of the trial. */
export const MAX_PARTS = 9_999;
const TRIAL_PART = 10_000;

/** Parts on their way at once. */
const PARALLEL = 2;
/** In memory: those on their way, and the one that is being filled. */
export const PARTS_HELD = PARALLEL + 1;

/** How long the removal of an upload that failed is tried; the janitor finds what is left. */
const CLEANUP_MS = 5_000;

interface MultipartUpload {
  Bucket: string | undefined;
  Key: string | undefined;
  UploadId: string | undefined;
}

/**
 * Puts the object in parts, or nothing: it becomes visible only when `portions` has ended without an error and S3 has
 * compared its own CRC32 of the whole with ours. @aws-sdk/lib-storage does not do that: it neither sends the CRC32 of
 * the whole, nor takes an AbortSignal for a part on its way, nor waits for its own clean-up.
 */
export async function putInParts(
  client: S3Client,
  object: PutObjectCommandInput,
  portions: AsyncIterable<Buffer>,
  abortSignal: AbortSignal,
): Promise<OwnChecksums> {
  const { IfNoneMatch, ...begun } = object;
  const type = { ChecksumAlgorithm: 'CRC32', ChecksumType: 'FULL_OBJECT' } as const;
  const { Bucket, Key } = object;
  const { UploadId } = await client.send(new CreateMultipartUploadCommand({ ...begun, ...type }), {
    abortSignal,
  });
  const upload = { Bucket, Key, UploadId };
  try {
    const compares = await comparesChecksums(client, upload, abortSignal);
    const { parts, crc } = await uploadParts(client, upload, portions, compares, abortSignal);
    const own = { ChecksumCRC32: base64(crc) };
    const complete = { ...upload, ...own, IfNoneMatch, MultipartUpload: { Parts: parts } };
    await client.send(new CompleteMultipartUploadCommand({ ...complete, ChecksumType: 'FULL_OBJECT' }), {
      abortSignal,
    });
    return own;
  } catch (error) {
    await abortUpload(client, upload, AbortSignal.timeout(CLEANUP_MS)).catch(() => {});
    throw error;
  }
}

/**
 * Whether S3, or a proxy before it, refuses a part that is not signed and has another CRC32 than its header says. An upload
 * begins with one such part, which is no part of it.
 */
async function comparesChecksums(
  client: S3Client,
  upload: MultipartUpload,
  abortSignal: AbortSignal,
): Promise<boolean> {
  const wrong = { ...upload, PartNumber: TRIAL_PART, Body: 'trial', ChecksumCRC32: base64(crc32('other')) };
  try {
    await putPart(client, wrong, true, abortSignal);
    return false;
  } catch (error) {
    return isCorrupt(error);
  }
}

async function uploadParts(
  client: S3Client,
  upload: MultipartUpload,
  portions: AsyncIterable<Buffer>,
  compares: boolean,
  signal: AbortSignal,
): Promise<{ parts: CompletedPart[]; crc: number }> {
  const failed = new AbortController();
  const abortSignal = AbortSignal.any([signal, failed.signal]);
  const parts: Promise<CompletedPart>[] = [];
  let crc = 0;
  try {
    for await (const portion of portions) {
      crc = crc32(portion, crc);
      // In order: what went wrong with an earlier part is found here, at the latest when the window is full.
      await parts.at(-PARALLEL);
      const summed = { PartNumber: parts.length + 1, ChecksumCRC32: base64(crc32(portion)) };
      const sent = { ...upload, ...summed, Body: portion };
      const part = putPart(client, sent, compares, abortSignal).then(({ ETag }) => ({ ...summed, ETag }));
      part.catch(() => {});
      parts.push(part);
    }
    return { parts: await Promise.all(parts), crc };
  } catch (error) {
    failed.abort();
    // A part that arrives after the upload was aborted would stay for ever.
    await Promise.allSettled(parts);
    throw error;
  }
}

function base64(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc);
  return bytes.toString('base64');
}

/** Parts of an upload that has ended are gone already. */
export async function abortUpload(
  client: S3Client,
  upload: MultipartUpload,
  abortSignal: AbortSignal,
): Promise<void> {
  try {
    await client.send(new AbortMultipartUploadCommand(upload), { abortSignal });
  } catch (error) {
    if (!(error instanceof Error && error.name === 'NoSuchUpload')) throw error;
  }
}

/** Uploads in parts that were begun before `before` (epoch ms) and neither completed nor aborted. */
export async function* strandedUploads(
  client: S3Client,
  Bucket: string,
  Prefix: string,
  before: number,
  abortSignal: AbortSignal,
) {
  let page: { KeyMarker?: string | undefined; UploadIdMarker?: string | undefined } = {};
  for (;;) {
    const answer = await client.send(new ListMultipartUploadsCommand({ Bucket, Prefix, ...page }), {
      abortSignal,
    });
    for (const { Key, UploadId, Initiated } of answer.Uploads ?? [])
      if (Initiated && Initiated.getTime() < before) yield { Key, UploadId, since: Initiated };
    if (!answer.IsTruncated) return;
    page = { KeyMarker: answer.NextKeyMarker, UploadIdMarker: answer.NextUploadIdMarker };
  }
}
