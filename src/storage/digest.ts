import { createHash } from 'node:crypto';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import type { ByteSource } from './byteSource.ts';
import type { StoredFacts } from './tier.ts';

type PromisedBytes = Pick<StoredFacts, 'size' | 'sha256'>;

/** What became of the bytes of one stream. */
export interface Digest {
  size: number;
  /** In hex. */
  sha256: string;
}

export const isSame = (digest: Digest, promised: PromisedBytes): boolean =>
  digest.size === promised.size && digest.sha256 === promised.sha256;

/** Reads to the end and keeps nothing. */
export async function digestOf(bytes: AsyncIterable<Buffer>): Promise<Digest> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of bytes) {
    hash.update(chunk);
    size += chunk.length;
  }
  return { size, sha256: hash.digest('hex') };
}

/**
 * The bytes of `open`, passed on as they come; it ends without an error only if they were the promised ones. So whoever
 * takes them makes nothing visible before the end.
 * @throws OrchestratorError upload_corrupt: other bytes, or a stream that breaks off; the source's own OrchestratorErrors
 */
export async function* promisedBytes(
  open: () => Promise<ByteSource>,
  promised: PromisedBytes,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of sourceBytes(open, signal)) {
    hash.update(chunk);
    size += chunk.length;
    if (size > promised.size) throw corrupt(`more than the ${promised.size} bytes that were promised`);
    yield chunk;
  }
  if (size < promised.size) throw corrupt(`${size} bytes instead of the ${promised.size} that were promised`);
  const sha256 = hash.digest('hex');
  if (sha256 !== promised.sha256) throw corrupt(`SHA-256 ${sha256} instead of ${promised.sha256}`);
}

const corrupt = (found: string) => new OrchestratorError('upload_corrupt', `The source gave ${found}.`);

async function* sourceBytes(open: () => Promise<ByteSource>, signal: AbortSignal): AsyncGenerator<Buffer> {
  try {
    yield* untilAborted(await open(), signal);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof OrchestratorError) throw error;
    throw new OrchestratorError('upload_corrupt', `The source broke off: ${describeError(error)}.`, {
      cause: error,
    });
  }
}

/** Ends at once when `signal` aborts: a source that waits for something may not end by itself, not even destroyed. */
async function* untilAborted(source: ByteSource, signal: AbortSignal): AsyncGenerator<Buffer> {
  const chunks = source[Symbol.asyncIterator]();
  let stop: (reason: unknown) => void = () => {};
  const onAbort = () => stop(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    for (;;) {
      signal.throwIfAborted();
      const next = await new Promise<IteratorResult<Buffer>>((resolve, reject) => {
        stop = reject;
        chunks.next().then(resolve, reject);
      });
      if (next.done) return;
      yield next.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    source.destroy();
  }
}

/** All the bytes, in `memory` as far as they fit into it. */
export async function inOne(bytes: AsyncIterable<Buffer>, memory: Buffer): Promise<Buffer> {
  let filled = 0;
  for await (const chunk of bytes) filled += chunk.copy(memory, filled);
  return memory.subarray(0, filled);
}

/**
 * The same bytes in portions of `bytes` each but for the last. The memory of a portion is used again for the `held`th after
 * it: so many are in use at a time, and a large file takes no more memory than a small one.
 */
export async function* inPortions(
  source: AsyncIterable<Buffer>,
  bytes: number,
  held: number,
  allocate: (bytes: number) => Buffer = Buffer.allocUnsafeSlow,
): AsyncGenerator<Buffer> {
  const memory: Buffer[] = [];
  let portions = 0;
  let filled = 0;
  for await (const chunk of source) {
    for (let taken = 0; taken < chunk.length; ) {
      const portion = memory[portions % held] ?? allocate(bytes);
      memory[portions % held] = portion;
      const copied = chunk.copy(portion, filled, taken);
      taken += copied;
      filled += copied;
      if (filled < bytes) continue;
      portions += 1;
      filled = 0;
      yield portion;
    }
  }
  if (filled > 0) yield memory[portions % held]!.subarray(0, filled);
}
