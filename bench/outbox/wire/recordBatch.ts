import { crc32c, Writer } from '@platformatic/kafka';
import type { OutboxRecord } from '../../../src/domain/outbox.ts';

/** Who writes a batch; `sequence` counts the partition's records since the producer's epoch began. */
export interface BatchOrigin {
  producerId: bigint;
  producerEpoch: number;
  sequence: number;
}

/** Offsets of the fields of a record batch, format 2: https://kafka.apache.org/documentation/#recordbatch */
const LENGTH_AT = 8;
const CRC_AT = 17;
const ATTRIBUTES_AT = 21;
const RECORDS_AT = 61;
const LENGTH_COUNTS_FROM = 12;

const MAGIC = 2;
const TRANSACTIONAL = 1 << 4;
const UNKNOWN_LEADER_EPOCH = -1;
/** A record's attributes and timestamp delta, one byte each: both are 0. */
const RECORD_HEAD_BYTES = 2;

/**
 * The records of one partition as Kafka stores them: uncompressed, transactional, all with the same timestamp.
 * Everything is written into one buffer: 1 µs for a record of 600 bytes, against 5 for the library's buffer for each
 * field and 11 for kafkajs.
 */
export function encodeRecordBatch(records: OutboxRecord[], origin: BatchOrigin, timestamp: number): Buffer {
  const sizes = records.map(sizeOf);
  let bytes = RECORDS_AT;
  sizes.forEach(({ body }, offset) => {
    const length = body + varintBytes(offset);
    bytes += varintBytes(length) + length;
  });
  const batch = Buffer.allocUnsafe(bytes);
  let at = writeHead(batch, records.length, origin, timestamp);
  records.forEach((record, offset) => {
    at = writeRecord(batch, at, record, sizes[offset]!, offset);
  });
  batch.writeUInt32BE(crc32cOf(batch.subarray(ATTRIBUTES_AT)), CRC_AT);
  return batch;
}

function writeHead(batch: Buffer, count: number, origin: BatchOrigin, timestamp: number): number {
  batch.writeBigInt64BE(0n, 0); // the leader gives the offsets
  batch.writeInt32BE(batch.length - LENGTH_COUNTS_FROM, LENGTH_AT);
  batch.writeInt32BE(UNKNOWN_LEADER_EPOCH, 12);
  batch.writeInt8(MAGIC, 16);
  batch.writeInt16BE(TRANSACTIONAL, ATTRIBUTES_AT);
  batch.writeInt32BE(count - 1, 23); // the last record's offset in the batch
  batch.writeBigInt64BE(BigInt(timestamp), 27);
  batch.writeBigInt64BE(BigInt(timestamp), 35);
  batch.writeBigInt64BE(origin.producerId, 43);
  batch.writeInt16BE(origin.producerEpoch, 51);
  batch.writeInt32BE(origin.sequence, 53);
  batch.writeInt32BE(count, 57);
  return RECORDS_AT;
}

interface RecordSize {
  key: number;
  value: number;
  /** The record without its length and its offset in the batch. */
  body: number;
}

function sizeOf({ key, value, headers }: OutboxRecord): RecordSize {
  const keyBytes = key === null ? -1 : Buffer.byteLength(key);
  const valueBytes = Buffer.byteLength(value);
  const names = Object.keys(headers);
  let body = RECORD_HEAD_BYTES + varintBytes(names.length) + sized(keyBytes) + sized(valueBytes);
  for (const name of names) body += sized(Buffer.byteLength(name)) + sized(Buffer.byteLength(headers[name]!));
  return { key: keyBytes, value: valueBytes, body };
}

const sized = (bytes: number) => varintBytes(bytes) + Math.max(0, bytes);

function writeRecord(
  batch: Buffer,
  start: number,
  { key, value, headers }: OutboxRecord,
  size: RecordSize,
  offset: number,
): number {
  let at = writeVarint(batch, start, size.body + varintBytes(offset));
  batch.writeInt16BE(0, at);
  at = writeVarint(batch, at + RECORD_HEAD_BYTES, offset);
  at = key === null ? writeVarint(batch, at, -1) : writeText(batch, at, key, size.key);
  at = writeText(batch, at, value, size.value);
  const names = Object.keys(headers);
  at = writeVarint(batch, at, names.length);
  for (const name of names) {
    const header = headers[name]!;
    at = writeText(batch, at, name, Buffer.byteLength(name));
    at = writeText(batch, at, header, Buffer.byteLength(header));
  }
  return at;
}

function writeText(batch: Buffer, at: number, text: string, bytes: number): number {
  const start = writeVarint(batch, at, bytes);
  batch.write(text, start, bytes, 'utf8');
  return start + bytes;
}

/** Zigzag: numbers near zero are short, whatever their sign. */
const zigzag = (value: number) => (value << 1) ^ (value >> 31);

function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = zigzag(value) >>> 7; rest !== 0; rest >>>= 7) bytes += 1;
  return bytes;
}

function writeVarint(batch: Buffer, start: number, value: number): number {
  let at = start;
  let rest = zigzag(value) >>> 0;
  for (; rest > 0x7f; rest >>>= 7) batch[at++] = (rest & 0x7f) | 0x80;
  batch[at++] = rest;
  return at;
}

/** A plain Uint8Array would be copied first. */
const crc32cOf = (bytes: Buffer): number => crc32c(Writer.create().append(bytes).dynamicBuffer);
