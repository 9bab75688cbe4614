// What backups say to S3, whether they come from there or go there.

import type { Readable } from 'node:stream';
import { GetObjectCommand, ListObjectsV2Command, S3Client, S3ServiceException } from '@aws-sdk/client-s3';
import { OrchestratorError } from '../domain/errors.ts';
import { failed, refused } from './names.ts';
import type { S3Access } from './settings.ts';

/** Answers that do not change by asking again, */
const DEFINITE = new Set([301, 400, 401, 403, 404, 405, 409, 411, 413, 501]);
/** but for these, which tell of a connection that was slow or broke, or of something that goes on at the same time. */
const PASSING = new Set([
  'RequestTimeout',
  'IncompleteBody',
  'BadDigest',
  'XAmzContentSHA256Mismatch',
  'OperationAborted',
  'ConditionalRequestConflict',
]);
/** What lib-storage says, as a mere Error. */
const TOO_MANY_PARTS = /^Exceeded [\d,]+ parts/;

const CONNECT_MS = 10_000;
/** A connection over which nothing comes or goes for so long is given up. */
const SILENCE_MS = 120_000;

export interface S3Object {
  key: string;
  size: number;
  etag: string;
  modified: Date;
}

const clients = new WeakMap<S3Access, S3Client>();

/** One client, and so one set of connections, for each configured access. */
export function s3Client(access: S3Access): S3Client {
  const client = clients.get(access) ?? newClient(access);
  clients.set(access, client);
  return client;
}

const newClient = ({ endpoint, accessKeyId, secretAccessKey }: S3Access): S3Client =>
  new S3Client({
    endpoint,
    forcePathStyle: true,
    // Servers other than Amazon's ignore it, but requests are signed for one.
    region: 'us-east-1',
    credentials: { accessKeyId, secretAccessKey },
    maxAttempts: 3,
    requestHandler: { connectionTimeout: CONNECT_MS, socketTimeout: SILENCE_MS },
    // Some of them refuse the checksums that the SDK adds by default. What is stored is read back in any case.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });

/** Runs a request, and tells what went wrong as one of our errors. An abort's reason is thrown as it is. */
export async function onS3<T>(what: string, signal: AbortSignal, request: () => Promise<T>): Promise<T> {
  try {
    return await request();
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof OrchestratorError) throw error;
    const status = error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined;
    const said = error instanceof Error ? `${error.name}: ${error.message || error.name}` : String(error);
    const message = `${what}: ${said}${status ? ` (${status})` : ''}`;
    const { name, message: text } = error as Error;
    const definite = (DEFINITE.has(status ?? 0) && !PASSING.has(name)) || TOO_MANY_PARTS.test(text);
    throw definite ? refused(message, { cause: error }) : failed(message, { cause: error });
  }
}

export const isAbsent = (error: unknown): boolean =>
  error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404;

/** All objects below the prefix, in the order of their keys. */
export async function* listObjects(
  client: S3Client,
  bucket: string,
  prefix: string,
  abortSignal: AbortSignal,
): AsyncGenerator<S3Object> {
  let ContinuationToken: string | undefined;
  do {
    const request = new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, ContinuationToken });
    const page = await onS3(`s3://${bucket}/${prefix} cannot be listed`, abortSignal, () =>
      client.send(request, { abortSignal }),
    );
    for (const { Key, Size, ETag, LastModified } of page.Contents ?? [])
      if (Key !== undefined)
        yield { key: Key, size: Size ?? 0, etag: ETag ?? '', modified: LastModified ?? new Date(0) };
    ContinuationToken = page.NextContinuationToken;
  } while (ContinuationToken);
}

/** The body of an object; with `etag` only if it is still that one. */
export async function getObject(
  client: S3Client,
  object: { Bucket: string; Key: string; IfMatch?: string },
  abortSignal: AbortSignal,
): Promise<{ body: Readable; size: number; etag: string }> {
  const { Body, ContentLength, ETag } = await client.send(new GetObjectCommand(object), { abortSignal });
  return { body: Body as Readable, size: ContentLength ?? 0, etag: ETag ?? '' };
}
