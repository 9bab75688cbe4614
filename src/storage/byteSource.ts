import type { FileHandle } from 'node:fs/promises';
import { PortionMemory } from './portionMemory.ts';

/**
 * Bytes that are read once. A chunk is good until the next one is asked for: its memory may be used again. Every Readable
 * of bytes is such a source.
 */
export interface ByteSource extends AsyncIterable<Buffer> {
  /** Nobody reads it any more. */
  destroy(): void;
}

const CHUNK = 256 * 1024;
const chunks = new PortionMemory(CHUNK);

/**
 * The bytes of a file that is open, all chunks in the same memory: with new memory for each, as streams have it, reading
 * and hashing a file takes more than twice the processor. The file is closed at its end.
 */
export class FileBytes implements ByteSource {
  private readonly file: FileHandle;
  private readonly ended = Promise.withResolvers<void>();

  constructor(file: FileHandle) {
    this.file = file;
  }

  /** Until the file is closed; a read that hangs keeps it open. */
  get closed(): Promise<void> {
    return this.ended.promise;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    const memory = chunks.borrow();
    const chunk = memory.take(CHUNK);
    try {
      for (;;) {
        const { bytesRead } = await this.file.read(chunk, 0, CHUNK);
        if (bytesRead === 0) return;
        yield chunk.subarray(0, bytesRead);
      }
    } finally {
      // No read is under way, and nobody asks for another.
      memory.giveBack();
      this.destroy();
    }
  }

  /** Waits for no one; the file is closed when what is being read has come. */
  destroy(): void {
    this.file.close().then(this.ended.resolve, () => this.ended.resolve());
  }
}
