import type { HeadObjectCommandOutput } from '@aws-sdk/client-s3';
import type { StoredFacts } from './tier.ts';

/** Checksums of our own, as S3 writes them (base64). */
export type OwnChecksums = { ChecksumSHA256: string } | { ChecksumCRC32: string };

export const sha256Checksum = ({ sha256 }: Pick<StoredFacts, 'sha256'>) => ({
  ChecksumSHA256: Buffer.from(sha256, 'hex').toString('base64'),
});

/**
 * What S3 says of the whole object, compared with what we know of it. `unknown`: it says nothing, or its checksum is one
 * of parts' checksums (`COMPOSITE`), or of another kind than ours.
 */
export function compareChecksums(
  own: OwnChecksums,
  found: HeadObjectCommandOutput,
): 'same' | 'other' | 'unknown' {
  if (found.ChecksumType !== 'FULL_OBJECT') return 'unknown';
  const [[kind, ours]] = Object.entries(own) as [[keyof UnionOf<OwnChecksums>, string]];
  const theirs = found[kind];
  if (!theirs) return 'unknown';
  return theirs === ours ? 'same' : 'other';
}

type UnionOf<T> = T extends unknown ? Record<keyof T, string> : never;

/** S3 takes 2 KiB of metadata in all. */
const MAX_NAME = 1_000;

/** The facts as S3 keeps them beside the bytes; a name that is too long for that is cut. */
export function objectHeaders({ size, sha256, filename, contentType }: StoredFacts) {
  const name = encodedName(filename);
  return {
    Metadata: { sha256, size: String(size), filename: name },
    ContentType: contentType && MEDIA_TYPE.test(contentType) ? contentType : 'application/octet-stream',
    ContentDisposition: `attachment; filename*=UTF-8''${name}`,
  };
}

const MEDIA_TYPE = /^[\w!#$&^.+-]{1,100}\/[\w!#$&^.+-]{1,100}(?:; ?[\x21-\x7e]{1,200})?$/;

/** ASCII, as RFC 8187 wants it. Half a surrogate pair becomes U+FFFD. */
function encodedName(filename: string): string {
  let encoded = '';
  for (const character of filename.toWellFormed()) {
    const next = encodeURIComponent(character).replace(
      /['()*]/g,
      (sign) => `%${sign.charCodeAt(0).toString(16)}`,
    );
    if (encoded.length + next.length > MAX_NAME) break;
    encoded += next;
  }
  return encoded;
}
