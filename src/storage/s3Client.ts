import { S3Client } from '@aws-sdk/client-s3';

export interface S3Settings {
  endpoint: string;
  bucket: string;
  accessKeyId: string;
  secretAccessKey: string;
}

export function connect({ endpoint, accessKeyId, secretAccessKey }: S3Settings, silenceMs: number): S3Client {
  const client = new S3Client({
    endpoint,
    forcePathStyle: true,
    // Servers other than Amazon's ignore it, but requests are signed for one.
    region: 'us-east-1',
    credentials: { accessKeyId, secretAccessKey },
    // A second try is for a connection that had died while it was idle. Waiting out an outage is the caller's affair.
    maxAttempts: 2,
    requestHandler: { connectionTimeout: 5_000, socketTimeout: silenceMs },
    // It would open a connection for each body.
    expectContinueHeader: false,
    // Checksums are given with each request.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  client.middlewareStack.add((next) => (args) => next(signByChecksum(args)), {
    step: 'build',
    name: 'signByChecksum',
  });
  return client;
}

/** The signature covers the SHA-256 of the body: where that is given, the client need not hash it once more. */
function signByChecksum<T extends { input: object; request: unknown }>(args: T): T {
  const { ChecksumSHA256 } = args.input as { ChecksumSHA256?: string };
  const { headers } = args.request as { headers: Record<string, string> };
  if (ChecksumSHA256) headers['x-amz-content-sha256'] = Buffer.from(ChecksumSHA256, 'base64').toString('hex');
  return args;
}
