// The envelope of a Redis dump: "REDIS", a version of four digits, …, 0xFF, and a CRC-64 of all before it.
import { failed } from './names.ts';

const HEADER_BYTES = 9;
const TRAILER_BYTES = 9;
const END_OF_FILE = 0xff;

// CRC-64 of Jones, reflected, as two halves of 32 bits: numbers, because BigInt is twenty times slower.
const POLYNOMIAL_HIGH = 0x95ac9329;
const POLYNOMIAL_LOW = 0xac4bc9b5;
const [HIGH, LOW] = table();

/** Checks a dump that passes by in pieces. */
export class RdbCheck {
  private head: Buffer = Buffer.alloc(0);
  /** The last bytes so far, which are not summed yet: they may be the trailer. */
  private tail: Buffer = Buffer.alloc(0);
  private high = 0;
  private low = 0;

  add(chunk: Uint8Array): void {
    if (this.head.length < HEADER_BYTES)
      this.head = Buffer.concat([this.head, chunk.subarray(0, HEADER_BYTES - this.head.length)]);
    const bytes = this.tail.length > 0 ? Buffer.concat([this.tail, chunk]) : Buffer.from(chunk);
    const summed = Math.max(0, bytes.length - TRAILER_BYTES);
    this.sum(bytes.subarray(0, summed));
    this.tail = Buffer.from(bytes.subarray(summed));
  }

  /**
   * Returns the version of the format, and whether the server wrote a checksum at all.
   * @throws OrchestratorError backup_failed if it is no whole dump
   */
  end(): { version: number; hasChecksum: boolean } {
    const version = Number(/^REDIS(\d{4})$/.exec(this.head.toString('latin1'))?.[1]);
    if (!(version >= 5)) throw failed('what Redis sent is no dump that ends with a checksum');
    if (this.tail.length < TRAILER_BYTES || this.tail[0] !== END_OF_FILE)
      throw failed('the dump that Redis sent has no end');
    this.sum(this.tail.subarray(0, 1));
    const found = this.tail.readBigUInt64LE(1);
    if (found === 0n) return { version, hasChecksum: false };
    const expected = (BigInt(this.high >>> 0) << 32n) | BigInt(this.low >>> 0);
    if (found !== expected)
      throw failed('the dump that Redis sent does not have the checksum that it ends with');
    return { version, hasChecksum: true };
  }

  private sum(bytes: Uint8Array): void {
    let { high, low } = this;
    for (let index = 0; index < bytes.length; index++) {
      const at = (low ^ bytes[index]!) & 0xff;
      low = ((low >>> 8) | (high << 24)) ^ LOW[at]!;
      high = (high >>> 8) ^ HIGH[at]!;
    }
    this.high = high;
    this.low = low;
  }
}

function table(): [Int32Array, Int32Array] {
  const highs = new Int32Array(256);
  const lows = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let high = 0;
    let low = byte;
    for (let bit = 0; bit < 8; bit++) {
      const odd = low & 1;
      low = (low >>> 1) | (high << 31);
      high >>>= 1;
      if (odd) {
        high ^= POLYNOMIAL_HIGH;
        low ^= POLYNOMIAL_LOW;
      }
    }
    highs[byte] = high;
    lows[byte] = low;
  }
  return [highs, lows];
}
