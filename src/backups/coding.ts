// From what a source gives to what a destination keeps, and back: compressed, then perhaps encrypted.
import { createHash } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { constants, createGunzip, createGzip, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { Decrypter, Encrypter } from 'age-encryption';
import type { Compression } from '../domain/backupFacts.ts';
import { DamagedBackup, refused } from './names.ts';

/** Of what (de)compressors give at a time; the default of 16 KiB would be many small writes. */
const chunkSize = 128 * 1024;

type Bytes = AsyncIterable<Uint8Array>;

/** One step of a stream's way. */
export type Stage = (bytes: Bytes) => Bytes;

/** Size (bytes) and SHA-256 (hex) of what has passed. */
export class Meter {
  size = 0;
  private readonly hash = createHash('sha256');

  /** Passes everything on, and tells `watch` the bytes so far. */
  stage(watch: (bytes: number) => void = () => {}): Stage {
    return async function* (this: Meter, bytes: Bytes) {
      for await (const chunk of bytes) {
        this.size += chunk.length;
        this.hash.update(chunk);
        watch(this.size);
        yield chunk;
      }
    }.bind(this);
  }

  /** Of everything, so it is asked for once. */
  sha256(): string {
    return this.hash.digest('hex');
  }
}

/** The compressor; none for `none`. Level 1: a third of level 3's time, and what it leaves of a dump is no more than gzip's. */
export function compressor(compression: Compression): Duplex[] {
  if (compression === 'zstd')
    return [
      createZstdCompress({
        chunkSize,
        params: { [constants.ZSTD_c_checksumFlag]: 1, [constants.ZSTD_c_compressionLevel]: 1 },
      }),
    ];
  return compression === 'gzip' ? [createGzip({ chunkSize, level: 3 })] : [];
}

/** The other way; what is cut off or damaged ends with an error. */
export function decompressor(compression: Compression): Duplex[] {
  if (compression === 'zstd') return [createZstdDecompress({ chunkSize: 4 * chunkSize })];
  return compression === 'gzip' ? [createGunzip({ chunkSize })] : [];
}

/**
 * Encrypts to all of these age recipients; none for none.
 * @throws OrchestratorError backup_refused; one that is no recipient is not shown, it may be a key
 */
export function encryption(recipients: string[]): Stage[] {
  if (recipients.length === 0) return [];
  const encrypter = new Encrypter();
  for (const recipient of recipients) {
    try {
      encrypter.addRecipient(recipient);
    } catch {
      throw refused('a recipient of the encryption is no age recipient (age1…)');
    }
  }
  return [
    async function* (bytes: Bytes) {
      yield* await encrypter.encrypt(ReadableStream.from(bytes));
    },
  ];
}

/** @throws OrchestratorError backup_refused if there is no identity, or not the right one */
export function decryption(recipients: string[], identity: string | undefined): Stage[] {
  if (recipients.length === 0) return [];
  if (!identity) throw refused('the backup is encrypted, and no identity is configured that could open it');
  const decrypter = new Decrypter();
  try {
    decrypter.addIdentity(identity.trim());
  } catch {
    throw refused('the configured identity is no age identity (AGE-SECRET-KEY-…)');
  }
  return [
    async function* (bytes: Bytes) {
      yield* await decrypter.decrypt(ReadableStream.from(bytes)).catch((error: Error) => {
        throw /no identity matched/.test(error.message)
          ? refused('the configured identity is none of those that the backup is encrypted to')
          : new DamagedBackup(`the backup cannot be decrypted: ${error.message}`, { cause: error });
      });
    },
  ];
}

/** Whether `decryption` can be expected to work. */
export const canDecrypt = (recipients: string[], identity: string | undefined): boolean =>
  recipients.length === 0 || identity !== undefined;

/** Compares what has passed with what should have, at the end. */
export function checked(what: string, expected: { size: number; sha256: string }): Stage {
  const meter = new Meter();
  const pass = meter.stage();
  return async function* (bytes: Bytes) {
    yield* pass(bytes);
    if (meter.size !== expected.size)
      throw new DamagedBackup(`${what} has ${meter.size} bytes instead of ${expected.size}`);
    if (meter.sha256() !== expected.sha256)
      throw new DamagedBackup(`${what} has another SHA-256 than was written`);
  };
}
