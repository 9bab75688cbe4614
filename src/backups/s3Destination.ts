import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  type MultipartUpload,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import type { BackupAddress, BackupFile } from '../domain/backupFacts.ts';
import { isAttemptId } from '../domain/backups.ts';
import {
  type BackupDestination,
  isOwnFile,
  MANIFEST,
  type Note,
  type StrandedBackup,
} from './destination.ts';
import { addressOf, addressPath } from './names.ts';
import { getObject, isAbsent, listObjects, onS3, type S3Object, s3Client } from './s3.ts';
import type { S3Access } from './settings.ts';

/** S3 takes 10,000 parts, so a file may have 156 GiB. Two are under way and one is being filled. */
const PART_BYTES = 16 << 20;
const PARTS_AT_ONCE = 2;
const CLEAN_UP_WITHIN_MS = 15_000;

/** A bucket, or a prefix of one, as destination. An object is there only when its last part is. */
export class S3Destination implements BackupDestination {
  readonly url: string;
  private readonly client: S3Client;
  readonly bucket: string;
  /** Empty, or with a slash at its end. */
  readonly prefix: string;

  constructor(access: S3Access, bucket: string, prefix: string) {
    this.client = s3Client(access);
    this.bucket = bucket;
    this.prefix = prefix;
    // Encoded, because it is opened again: prefixOf decodes it.
    this.url = `s3://${bucket}/${prefix.split('/').map(encodeURIComponent).join('/')}`.replace(/\/$/, '');
  }

  async write(
    address: BackupAddress,
    file: BackupFile,
    content: Readable,
    signal: AbortSignal,
  ): Promise<void> {
    signal.throwIfAborted();
    const upload = new Upload({
      client: this.client,
      params: { ...this.object(address, file), Body: content },
      partSize: PART_BYTES,
      queueSize: PARTS_AT_ONCE,
      leavePartsOnError: false,
    });
    const abort = () => void upload.abort();
    signal.addEventListener('abort', abort, { once: true });
    try {
      await onS3(`${this.url}: ${file} could not be written`, signal, () => upload.done());
    } catch (error) {
      await this.abandonAll(this.object(address, file).Key);
      throw error;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async read(address: BackupAddress, file: BackupFile, signal: AbortSignal): Promise<Readable> {
    const object = this.object(address, file);
    const what = `${this.url}: ${file} could not be read`;
    const { body } = await onS3(what, signal, () => getObject(this.client, object, signal));
    return Readable.from(toItsEnd(body, what, signal), { objectMode: false });
  }

  size(address: BackupAddress, file: BackupFile, abortSignal: AbortSignal): Promise<number | undefined> {
    const head = new HeadObjectCommand(this.object(address, file));
    return onS3(`${this.url}: ${file} could not be looked at`, abortSignal, () =>
      this.client
        .send(head, { abortSignal })
        .then(({ ContentLength }) => ContentLength)
        .catch(absent),
    );
  }

  async writeNote(address: BackupAddress, note: Note, Body: string, abortSignal: AbortSignal): Promise<void> {
    const put = new PutObjectCommand({ ...this.object(address, note), Body });
    await onS3(`${this.url}: ${note} could not be written`, abortSignal, () =>
      this.client.send(put, { abortSignal }),
    );
  }

  readNote(address: BackupAddress, note: Note, signal: AbortSignal): Promise<string | undefined> {
    const get = async () => {
      const { body } = await getObject(this.client, this.object(address, note), signal);
      return Buffer.concat(await body.toArray()).toString('utf8');
    };
    return onS3(`${this.url}: ${note} could not be read`, signal, () => get().catch(absent));
  }

  async *list(signal: AbortSignal): AsyncGenerator<BackupAddress> {
    for await (const { address, file } of this.objects(signal)) if (file === MANIFEST) yield address;
  }

  async remove(address: BackupAddress, signal: AbortSignal): Promise<void> {
    const prefix = `${this.prefix}${addressPath(address)}/`;
    await this.delete(`${prefix}${MANIFEST}`, signal);
    const isOwn = (key = '') => isOwnFile(key.slice(prefix.length));
    for await (const { key } of listObjects(this.client, this.bucket, prefix, signal))
      if (isOwn(key)) await this.delete(key, signal);
    for (const upload of await this.uploads(prefix, signal))
      if (isOwn(upload.Key)) await this.abandon(upload, signal);
  }

  async stranded(before: number, signal: AbortSignal): Promise<StrandedBackup[]> {
    const found = new Map<string, { address: BackupAddress; since: number; stays: boolean }>();
    const add = (address: BackupAddress, file: string, at = new Date()) => {
      const name = addressPath(address);
      const { since, stays } = found.get(name) ?? { since: 0, stays: !isAttemptId(address.id) };
      found.set(name, {
        address,
        since: Math.max(since, at.getTime()),
        stays: stays || file === MANIFEST || !isOwnFile(file),
      });
    };
    for await (const { address, file, modified } of this.objects(signal)) add(address, file, modified);
    for (const { Key, Initiated } of await this.uploads(this.prefix, signal)) {
      const of = this.addressOf(Key ?? '');
      if (of) add(of.address, of.file, Initiated);
    }
    return [...found.values()]
      .filter(({ since, stays }) => !stays && since < before)
      .map(({ address, since }) => ({
        name: `${this.url}/${addressPath(address)}`,
        since: new Date(since),
        remove: (until: AbortSignal) => this.remove(address, until),
      }));
  }

  private async *objects(
    signal: AbortSignal,
  ): AsyncGenerator<S3Object & { address: BackupAddress; file: string }> {
    for await (const object of listObjects(this.client, this.bucket, this.prefix, signal)) {
      const found = this.addressOf(object.key);
      if (found) yield { ...object, ...found };
    }
  }

  private addressOf(key: string): { address: BackupAddress; file: string } | undefined {
    const [type = '', source = '', id = '', file = '', ...rest] = key.slice(this.prefix.length).split('/');
    const address = addressOf(type, source, id);
    return address && file !== '' ? { address, file: [file, ...rest].join('/') } : undefined;
  }

  private object(address: BackupAddress, file: string) {
    return { Bucket: this.bucket, Key: `${this.prefix}${addressPath(address)}/${file}` };
  }

  private async delete(Key: string, signal: AbortSignal): Promise<void> {
    const request = new DeleteObjectCommand({ Bucket: this.bucket, Key });
    await onS3(`${this.url}: ${Key} could not be removed`, signal, () =>
      this.client.send(request, { abortSignal: signal }),
    );
  }

  /** Uploads that were begun and never finished. */
  private async uploads(Prefix: string, signal: AbortSignal): Promise<MultipartUpload[]> {
    const found: MultipartUpload[] = [];
    let markers = {};
    for (;;) {
      const request = new ListMultipartUploadsCommand({ Bucket: this.bucket, Prefix, ...markers });
      const page = await onS3(`${this.url}: uploads cannot be listed`, signal, () =>
        this.client.send(request, { abortSignal: signal }),
      );
      found.push(...(page.Uploads ?? []));
      if (!page.IsTruncated) return found;
      markers = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker };
    }
  }

  /** The SDK does so too, but not for an upload that was aborted while it began. What is left is stranded, and found later. */
  private async abandonAll(key: string): Promise<void> {
    const signal = AbortSignal.timeout(CLEAN_UP_WITHIN_MS);
    try {
      for (const upload of await this.uploads(key, signal)) await this.abandon(upload, signal);
    } catch {
      // The upload's own failure is the one to tell.
    }
  }

  private async abandon({ Key, UploadId }: MultipartUpload, signal: AbortSignal): Promise<void> {
    const request = new AbortMultipartUploadCommand({ Bucket: this.bucket, Key, UploadId });
    await onS3(`${this.url}: an upload could not be ended`, signal, () =>
      this.client.send(request, { abortSignal: signal }).catch(absent),
    );
  }
}

/** A body that breaks off is told like a request that fails. */
async function* toItsEnd(body: Readable, what: string, signal: AbortSignal): AsyncGenerator<Buffer> {
  try {
    yield* body as AsyncIterable<Buffer>;
  } catch (error) {
    await onS3(what, signal, () => Promise.reject(error));
  }
}

function absent(error: unknown): undefined {
  if (!isAbsent(error)) throw error;
}
