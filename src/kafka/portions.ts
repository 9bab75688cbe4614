import type { IHeaders, KafkaMessage } from 'kafkajs';
import type { ConsumedRecord } from '../domain/consumedRecord.ts';

/** One transaction of the owner, or as many workflow starts. */
export const MAX_RECORDS = 500;
/** A portion ends when its values have so many bytes. */
export const MAX_PORTION_BYTES = 8_000_000;

/** The next records for the owner: the more failures, the fewer. */
export function portionOf(messages: KafkaMessage[], from: number, failures: number): KafkaMessage[] {
  const most = Math.max(1, MAX_RECORDS >> Math.min(failures, 9));
  let bytes = 0;
  const fits = ({ value }: KafkaMessage, index: number) => {
    bytes += value?.length ?? 0;
    return index === 0 || bytes <= MAX_PORTION_BYTES;
  };
  const candidates = messages.slice(from, from + most);
  const end = candidates.findIndex((message, index) => !fits(message, index));
  return end === -1 ? candidates : candidates.slice(0, end);
}

/** A record as its owner gets it: of a header that came several times the last one counts. */
export function toRecord(topic: string, partition: number, message: KafkaMessage): ConsumedRecord {
  const { offset, timestamp, key, value, headers } = message;
  return { topic, partition, offset, timestamp: Number(timestamp), key, value, headers: lastOfEach(headers) };
}

function lastOfEach(headers: IHeaders = {}): Record<string, Uint8Array> {
  const entries = Object.entries(headers).map(([name, value]) => [name, [value].flat().at(-1)] as const);
  return Object.fromEntries(
    entries.filter(([, value]) => value != null).map(([name, value]) => [name, Buffer.from(value!)]),
  );
}
