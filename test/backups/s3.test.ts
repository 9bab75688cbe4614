import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S3ServiceException } from '@aws-sdk/client-s3';
import { onS3 } from '../../src/backups/s3.ts';
import { never } from '../support/backups.ts';

const codeOf = (error: Error) =>
  onS3('no', never, () => Promise.reject(error)).then(
    () => undefined,
    (thrown) => thrown.code as string,
  );

test('what S3 says of a slow connection, or of another request, is worth another try; a definite no is not', async () => {
  for (const [httpStatusCode, name, code] of [
    [400, 'RequestTimeout', 'backup_failed'],
    [400, 'IncompleteBody', 'backup_failed'],
    [409, 'OperationAborted', 'backup_failed'],
    [503, 'SlowDown', 'backup_failed'],
    [400, 'InvalidArgument', 'backup_refused'],
    [403, 'AccessDenied', 'backup_refused'],
    [404, 'NoSuchBucket', 'backup_refused'],
  ] as const) {
    const error = new S3ServiceException({ name, $fault: 'client', $metadata: { httpStatusCode } });
    assert.equal(await codeOf(error), code, name);
  }
  assert.equal(await codeOf(new Error('socket hang up')), 'backup_failed');
  const tooMany = 'Exceeded 10000 parts in multipart upload to Bucket: backups Key: x.';
  assert.equal(await codeOf(new Error(tooMany)), 'backup_refused');
});
