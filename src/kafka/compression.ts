// Teaches kafkajs to read what is compressed by lz4, snappy or zstd; alone it reads gzip. Producers choose, or the broker
// does (`compression.type`, the platform's is lz4). Nothing is written in them. Whatever consumes imports this file.
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import { lz4Decompress, snappyDecompress } from '@platformatic/wasm-utils';
import kafkajs from 'kafkajs';

// kafkajs is CommonJS, and Node finds only some of its exports by name.
const { CompressionCodecs, CompressionTypes } = kafkajs;

const reads = (decompress: (bytes: Buffer) => Buffer | Promise<Buffer>) => () => ({
  compress: () => Promise.reject(new Error('records are sent without compression')),
  decompress: async (bytes: Buffer) => decompress(bytes),
});

CompressionCodecs[CompressionTypes.LZ4] = reads(lz4Decompress);
CompressionCodecs[CompressionTypes.Snappy] = reads(readSnappy);
CompressionCodecs[CompressionTypes.ZSTD] = reads(promisify(zstdDecompress));

/** How Java frames it: this, two versions of 32 bits, and chunks, each behind its length. Others send one bare chunk. */
const JAVA_FRAME = Buffer.from('\x82SNAPPY\0', 'latin1');
const JAVA_HEADER_BYTES = 16;

function readSnappy(bytes: Buffer): Buffer {
  if (!bytes.subarray(0, JAVA_FRAME.length).equals(JAVA_FRAME)) return snappyDecompress(bytes);
  const chunks: Buffer[] = [];
  for (let at = JAVA_HEADER_BYTES; at < bytes.length; ) {
    const begin = at + 4;
    at = begin + bytes.readUInt32BE(at);
    chunks.push(snappyDecompress(bytes.subarray(begin, at)));
  }
  return Buffer.concat(chunks);
}
