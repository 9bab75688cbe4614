import { Readable } from 'node:stream';
import { type Header, type Pack, pack } from 'tar-stream';

/** Of a header what is said; the rest has defaults. */
export type EntryHeader = Partial<Header> & Pick<Header, 'name'>;

const BLOCK = 512;
/** How far entries without content may run ahead of the reader; tar-stream itself holds back only contents. */
const AHEAD_BYTES = 1 << 20;

/** A tar under construction: its stream, and how many entries it has. */
export class TarWriter {
  entries = 0;
  private readonly archive: Pack = pack();
  private written = 0;
  private read = 0;
  private wake = () => {};
  private over = false;

  /** The tar, filled by `fill` at the pace at which it is read. If `fill` fails the stream ends with its error. */
  static stream(fill: (tar: TarWriter) => Promise<void>): Readable {
    return Readable.from(new TarWriter().bytes(fill), { objectMode: false });
  }

  /** An entry with exactly `header.size` bytes of content. */
  async add(header: EntryHeader, content: AsyncIterable<Uint8Array> | Uint8Array[] = []): Promise<void> {
    await this.untilRead();
    this.written += BLOCK + Math.ceil((header.size ?? 0) / BLOCK) * BLOCK;
    const { promise: done, resolve, reject } = Promise.withResolvers<void>();
    done.catch(() => {});
    const entry = this.archive.entry(header, (error) => (error ? reject(error) : resolve()));
    // What ends the archive ends the entry too, and the archive tells it; unheard it would end this process.
    entry.on('error', () => {});
    for await (const chunk of content) if (!entry.write(chunk)) await Promise.race([drained(entry), done]);
    entry.end(undefined);
    await done;
    this.entries++;
  }

  private async *bytes(fill: (tar: TarWriter) => Promise<void>): AsyncGenerator<Buffer> {
    fill(this).then(
      () => this.archive.finalize(),
      (error) => this.archive.destroy(error),
    );
    try {
      for await (const chunk of this.archive as AsyncIterable<Buffer>) {
        this.read += chunk.length;
        this.wake();
        yield chunk;
      }
    } finally {
      this.over = true;
      this.wake();
    }
  }

  private async untilRead(): Promise<void> {
    while (this.written - this.read > AHEAD_BYTES && !this.over) {
      await new Promise<void>((wake) => {
        this.wake = wake;
      });
    }
  }
}

const drained = (entry: ReturnType<Pack['entry']>): Promise<void> =>
  new Promise((resolve) => entry.once('drain', () => resolve()));
