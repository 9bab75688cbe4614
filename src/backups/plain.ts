import { PassThrough, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { BackupAddress, Compression, StoredFile } from '../domain/backupFacts.ts';
import { checked, decompressor, decryption, Meter, type Stage } from './coding.ts';
import type { BackupDestination } from './destination.ts';
import { asFailure, DamagedBackup } from './names.ts';

export interface StoredContent {
  destination: BackupDestination;
  address: BackupAddress;
  file: StoredFile;
  settings: { compression: Compression; recipients: string[]; identity?: string };
  /** Hears how many stored bytes have passed. */
  watch?: (bytes: number) => void;
}

/**
 * A file of a backup as its source gave it: decrypted, decompressed, and both sums compared. What is missing, cut off or
 * changed ends the stream with an error (backup_failed), a missing key likewise (backup_refused).
 */
export async function openPlain(
  { destination, address, file, settings, watch }: StoredContent,
  signal: AbortSignal,
): Promise<Readable> {
  const stages: (Stage | NodeJS.ReadWriteStream)[] = [
    new Meter().stage(watch),
    checked(`the stored file ${file.name}`, file),
    ...decryption(settings.recipients, settings.identity),
    ...decompressor(settings.compression),
    checked(`the content of ${file.name}`, { size: file.plainSize, sha256: file.plainSha256 }),
  ];
  const stored = await destination.read(address, file.name, signal);
  const plain = new PassThrough();
  // What fails is told by the stream itself. The types of `pipeline` know no list of stages.
  pipeline([stored, ...stages, plain] as unknown as [Readable, PassThrough], { signal }).catch(() => {});
  return Readable.from(explained(plain, file), { objectMode: false });
}

/** What cannot be decompressed was changed or cut off. */
async function* explained(plain: Readable, { name }: StoredFile): AsyncGenerator<Buffer> {
  try {
    yield* plain as AsyncIterable<Buffer>;
  } catch (error) {
    const isDamage =
      error instanceof Error && /^(ZSTD|Z)_/i.test(String((error as NodeJS.ErrnoException).code));
    throw isDamage
      ? new DamagedBackup(`${name} is damaged: ${error.message}`, { cause: error })
      : asFailure(error);
  }
}
