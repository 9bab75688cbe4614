import { S3ServiceException } from '@aws-sdk/client-s3';
import { describeError } from '../domain/errors.ts';
import type { Diagnosis, StorageCode } from './failures.ts';

/** Where S3's own code says more than the HTTP status. */
const BY_CODE: Record<string, StorageCode> = {
  // The bytes changed on the way.
  BadDigest: 'upload_corrupt',
  IncompleteBody: 'upload_corrupt',
  // A part that S3 had said to have.
  InvalidPart: 'upload_corrupt',
  XAmzContentChecksumMismatch: 'upload_corrupt',
  XAmzContentSHA256Mismatch: 'upload_corrupt',
  // 400, and yet about this one try.
  RequestTimeout: 'storage_unavailable',
  // An upload in parts that somebody has aborted: it begins anew.
  NoSuchUpload: 'storage_unavailable',
  // 5xx at some servers, and yet a no.
  QuotaExceeded: 'storage_refused',
  XMinioStorageFull: 'storage_refused',
};

const BY_STATUS: Record<number, StorageCode> = {
  // Timeout, conflict, conflict with a condition, too many requests.
  408: 'storage_unavailable',
  409: 'storage_unavailable',
  412: 'storage_unavailable',
  429: 'storage_unavailable',
  // Not implemented, no space left.
  501: 'storage_refused',
  507: 'storage_refused',
};

export function diagnoseS3(error: unknown): Diagnosis {
  if (!(error instanceof S3ServiceException))
    return { code: 'storage_unavailable', reason: describeError(error) };
  const { name, message } = error;
  const status = error.$metadata.httpStatusCode ?? 0;
  const code =
    BY_CODE[name] ?? BY_STATUS[status] ?? (isRefusal(status) ? 'storage_refused' : 'storage_unavailable');
  // An answer to HEAD has no text, and the client makes up another.
  return {
    code,
    reason: message === 'UnknownError' ? `HTTP ${status}` : `${name} (HTTP ${status}): ${message}`,
  };
}

const isRefusal = (status: number): boolean => status >= 300 && status < 500;

/** Another upload of the same key came in between: 412 if it has ended, 409 if it is under way. */
export const isConflict = (error: unknown): boolean =>
  error instanceof S3ServiceException && [409, 412].includes(error.$metadata.httpStatusCode ?? 0);

/** There is an object already, and the request was to create one. */
export const isPreconditionFailed = (error: unknown): boolean =>
  error instanceof S3ServiceException && error.$metadata.httpStatusCode === 412;

/** The bytes that came are not those that the request said. */
export const isCorrupt = (error: unknown): boolean => diagnoseS3(error).code === 'upload_corrupt';

/** There is no such object; a bucket that is missing is another matter. */
export const isMissing = (error: unknown): boolean =>
  error instanceof S3ServiceException && ['NoSuchKey', 'NotFound'].includes(error.name);
