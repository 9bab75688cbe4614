import {
  PutObjectCommand,
  type PutObjectCommandInput,
  S3Client,
  UploadPartCommand,
  type UploadPartCommandInput,
  type UploadPartCommandOutput,
} from '@aws-sdk/client-s3';

export interface S3Settings {
  endpoint: string;
  bucket: string;
  accessKeyId: string;
  secretAccessKey: string;
}

export function connect({ endpoint, accessKeyId, secretAccessKey }: S3Settings, silenceMs: number): S3Client {
  return new S3Client({
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
}

export type ObjectToPut = PutObjectCommandInput & { ChecksumSHA256: string };

/**
 * Puts an object whose SHA-256 is known, so that the client need not find it out once more. The signature covers it: as
 * that of the body, or, where S3 `compares` the checksum in the header with the body, by that header alone. Then S3 has to
 * hash the body once, and not twice.
 */
export async function putObject(
  client: S3Client,
  object: ObjectToPut,
  compares: boolean,
  abortSignal: AbortSignal,
): Promise<void> {
  const hash = Buffer.from(object.ChecksumSHA256, 'base64').toString('hex');
  const command = new PutObjectCommand(object);
  command.middlewareStack.add((next) => (args) => next(signedAs(args, compares ? UNSIGNED : hash)), SIGNING);
  await client.send(command, { abortSignal });
}

export type PartToPut = UploadPartCommandInput & { ChecksumCRC32: string };

/** Puts a part whose CRC32 is known. Where S3 `compares` that with the body, neither side has to hash it for the signature. */
export function putPart(
  client: S3Client,
  part: PartToPut,
  compares: boolean,
  abortSignal: AbortSignal,
): Promise<UploadPartCommandOutput> {
  const command = new UploadPartCommand(part);
  if (compares) command.middlewareStack.add((next) => (args) => next(signedAs(args, UNSIGNED)), SIGNING);
  return client.send(command, { abortSignal });
}

const UNSIGNED = 'UNSIGNED-PAYLOAD';

const SIGNING = { step: 'build', name: 'signPayload' } as const;

/** What the signature shall say of the body, in place of the hash that the client makes of it. */
function signedAs<T extends { request: unknown }>(args: T, hash: string): T {
  const { headers } = args.request as { headers: Record<string, string> };
  headers['x-amz-content-sha256'] = hash;
  return args;
}
