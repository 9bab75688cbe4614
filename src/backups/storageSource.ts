import { createHash } from 'node:crypto';
import type { S3Client } from '@aws-sdk/client-s3';
import type { SourceFacts } from '../domain/backupFacts.ts';
import { EntryNames } from './entryNames.ts';
import { failed } from './names.ts';
import { getObject, isAbsent, listObjects, onS3, type S3Object, s3Client } from './s3.ts';
import type { S3Access } from './settings.ts';
import type { BackupSource, KeepFile } from './source.ts';
import { TarWriter } from './tarWriting.ts';

const MD5_ETAG = /^"?([0-9a-f]{32})"?$/;
const MAX_NOTES = 20;

/** The objects of a bucket, or of a prefix of one, as a tar with their keys as names, see EntryNames. */
export class S3Source implements BackupSource {
  readonly type = 'storage';
  readonly name: string;
  private readonly client: S3Client;
  private readonly bucket: string;
  private readonly prefix: string;

  constructor(name: string, access: S3Access & { bucket: string }, prefix: string) {
    this.name = name;
    this.client = s3Client(access);
    this.bucket = access.bucket;
    this.prefix = prefix;
  }

  async read(keep: KeepFile, signal: AbortSignal): Promise<SourceFacts> {
    const notes: string[] = [];
    const names = new EntryNames();
    let escaped = 0;
    let entries = 0;
    await keep(
      'data',
      TarWriter.stream(async (tar) => {
        for await (const object of listObjects(this.client, this.bucket, this.prefix, signal)) {
          const name = names.of(object.key);
          const gone = await this.add(tar, name, object, signal);
          if (name !== object.key) escaped++;
          if (gone && notes.length < MAX_NOTES) notes.push(`${object.key} was deleted before it was read.`);
        }
        entries = tar.entries;
      }),
    );
    if (escaped > 0) notes.push(`${escaped} keys are no plain paths, and have escapes (%) in their names.`);
    return { versions: {}, entries, notes };
  }

  /** Whether the object is gone. One that was replaced is taken as it is now. */
  private async add(
    tar: TarWriter,
    name: string,
    { key, modified }: S3Object,
    signal: AbortSignal,
  ): Promise<boolean> {
    const object = { Bucket: this.bucket, Key: key };
    return onS3(`s3://${this.bucket}/${key} cannot be read`, signal, async () => {
      const got = await getObject(this.client, object, signal).catch((error) => {
        if (!isAbsent(error)) throw error;
        return undefined;
      });
      if (!got) return true;
      const header = { name, size: got.size, mtime: modified, mode: 0o600 };
      await tar.add(header, verified(key, got));
      return false;
    });
  }
}

/** Compares what comes with the size and, where it is one, the MD5 that S3 says. */
async function* verified(
  key: string,
  { body, size, etag }: { body: AsyncIterable<Uint8Array>; size: number; etag: string },
): AsyncGenerator<Uint8Array> {
  const md5 = MD5_ETAG.exec(etag)?.[1];
  const hash = md5 ? createHash('md5') : undefined;
  let read = 0;
  for await (const chunk of body) {
    read += chunk.length;
    hash?.update(chunk);
    yield chunk;
  }
  if (read !== size) throw failed(`of ${key} came ${read} bytes instead of ${size}`);
  if (hash && hash.digest('hex') !== md5) throw failed(`${key} has another MD5 than its ETag says`);
}
