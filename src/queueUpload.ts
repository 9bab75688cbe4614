import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { enqueue } from './database/outbox.ts';
import type { Queryable } from './database/postgres.ts';
import { isObject } from './domain/consumedRecord.ts';
import { OrchestratorError } from './domain/errors.ts';
import { CHARACTERS, fitsColumn, jsonFault, shown } from './domain/storable.ts';
import { MAX_INLINE_BYTES, UPLOAD_TOPIC, uploadKey } from './domain/uploads.ts';
import { spool } from './storage/spool.ts';

/** A file that shall be stored. */
export interface UploadToQueue {
  /** 1 to 1,024 characters; it only names the file, and is never a path of this service's. */
  filename: string;
  contentType?: string | null;
  /** Goes with the receipt; at most 200,000 bytes as JSON. */
  metadata?: Record<string, unknown>;
  /** In memory, in a file, or as a stream that is read once. */
  bytes: Uint8Array | { file: string } | Readable;
}

export interface QueuedUpload {
  /** Made of the name and the content: the same file is stored once. */
  idempotencyKey: string;
  /** In hex. */
  sha256: string;
  /** In bytes. */
  size: number;
  /** False: it is in the outbox already. */
  isNew: boolean;
}

const MAX_METADATA_BYTES = 200_000;
/** More than this beside the bytes, and both together might not fit into a record. */
const MAX_BESIDE_BYTES = 20_000;

/**
 * Has a file stored, inside the caller's own transaction: it is stored if and only if that commits. Up to 700,000 bytes
 * travel in the message; more are written to the spool first, a directory that the workers see as SA01_SPOOL_DIR, and
 * only a reference travels. The janitor removes that file, also if the transaction does not commit.
 * @throws OrchestratorError invalid_message, naming each field at fault; invalid_input, if a spool is needed and there is
 *   none; storage_unavailable, if it cannot be written. The transaction is still usable.
 */
export async function queueUpload(
  client: Queryable,
  upload: UploadToQueue,
  { spoolDir }: { spoolDir?: string } = {},
): Promise<QueuedUpload> {
  const faults = uploadFaults(upload);
  if (faults.length > 0) throw new OrchestratorError('invalid_message', faults.join('; '));
  const { filename, contentType = null, metadata = {} } = upload;
  const described = { filename, content_type: contentType, metadata };
  const most = Buffer.byteLength(JSON.stringify(described)) > MAX_BESIDE_BYTES ? 0 : MAX_INLINE_BYTES;
  const carried = await carry(filename, bytesOf(upload.bytes), most, spoolDir);
  const { idempotencyKey, sha256, size, data_b64, data_ref } = carried;
  const { isNew } = await enqueue(client, {
    idempotencyKey,
    topic: UPLOAD_TOPIC,
    // The outbox takes no longer keys; without one the order to other versions of the file is not kept.
    key: fitsColumn(filename, 255) ? filename : null,
    payload: { ...described, size, data_b64, data_ref },
    headers: { operation: 'upload', retry: 'true' },
  });
  return { idempotencyKey, sha256, size, isNew };
}

function uploadFaults({ filename, contentType, metadata, bytes }: UploadToQueue): string[] {
  return [
    fitsColumn(filename, 1_024)
      ? ''
      : `filename must be a string of 1 to 1024 ${CHARACTERS}, got ${shown(filename)}`,
    contentType == null || fitsColumn(contentType, 255)
      ? ''
      : `contentType must be null or a string of 1 to 255 ${CHARACTERS}, got ${shown(contentType)}`,
    metadata === undefined ? '' : metadataFault(metadata),
    bytes instanceof Uint8Array || bytes instanceof Readable || typeof bytes?.file === 'string'
      ? ''
      : 'bytes must be a Uint8Array, a Readable, or { file }',
  ].filter((fault) => fault !== '');
}

function metadataFault(metadata: unknown): string {
  if (!isObject(metadata)) return `metadata must be an object, got ${shown(metadata)}`;
  const fault = jsonFault('metadata', metadata);
  if (fault !== '') return fault;
  const size = Buffer.byteLength(JSON.stringify(metadata));
  return size <= MAX_METADATA_BYTES
    ? ''
    : `metadata must be at most ${MAX_METADATA_BYTES} bytes as JSON, got ${size}`;
}

function bytesOf(bytes: UploadToQueue['bytes']): AsyncIterable<Uint8Array> {
  if (bytes instanceof Uint8Array) return Readable.from([bytes], { objectMode: false });
  return bytes instanceof Readable ? bytes : createReadStream(bytes.file);
}

/** Brings the bytes on their way: up to `most` in the message, else through the spool. Reads them once. */
async function carry(
  filename: string,
  bytes: AsyncIterable<Uint8Array>,
  most: number,
  spoolDir: string | undefined,
) {
  const hash = createHash('sha256');
  let size = 0;
  const hashed = (async function* () {
    for await (const chunk of bytes) {
      hash.update(chunk);
      size += chunk.length;
      yield chunk;
    }
  })();
  const known = () => {
    const sha256 = hash.digest('hex');
    return { sha256, size, idempotencyKey: uploadKey(filename, sha256, digest) };
  };
  const head: Uint8Array[] = [];
  while (size <= most) {
    const next = await hashed.next();
    if (next.done) return { ...known(), data_b64: Buffer.concat(head).toString('base64'), data_ref: null };
    head.push(next.value);
  }
  if (!spoolDir)
    throw new OrchestratorError(
      'invalid_input',
      `spoolDir is needed for more than ${most} bytes: a directory that the workers see as SA01_SPOOL_DIR`,
    );
  const file = await spool(spoolDir, all(head, hashed));
  const upload = known();
  // A name for each content: under a name that was stored already, other bytes would not be looked at.
  return { ...upload, data_b64: null, data_ref: await file.keepAs(digest(upload.idempotencyKey)) };
}

async function* all(head: Uint8Array[], rest: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* head.splice(0);
  yield* rest;
}

const digest = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');
