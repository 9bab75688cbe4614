import { CHARACTERS, fitsColumn, isStorable, jsonFault, shown } from './storable.ts';
import { isLegalTopic } from './topics.ts';

/** A message as a TypeScript caller hands it to `enqueue`. */
export interface OutboxMessage {
  /** At most 255 characters, unique in the outbox; consumers find it in the header `idempotency_key`. */
  idempotencyKey: string;
  topic: string;
  /** At most 255 characters. Messages of one topic and key arrive in the order of their insertion. */
  key?: string | null;
  /** Anything that JSON can say, `null` included. */
  payload: unknown;
  headers?: Record<string, string>;
  /** How often a message that Kafka refuses is tried; 5 unless said. */
  maxAttempts?: number;
}

const COLUMN_LENGTH = 255;
const MAX_INTEGER = 2_147_483_647;

/** One sentence for each field that the outbox could not take; none if the message is good. */
export function outboxMessageFaults(message: OutboxMessage): string[] {
  const { idempotencyKey, topic, key, payload, headers, maxAttempts } = message;
  return [
    fitsColumn(idempotencyKey, COLUMN_LENGTH)
      ? ''
      : `idempotencyKey must be a string of 1 to 255 ${CHARACTERS}, got ${shown(idempotencyKey)}`,
    typeof topic === 'string' && isLegalTopic(topic)
      ? ''
      : `topic must be 1 to 249 of a-z A-Z 0-9 . _ -, got ${shown(topic)}`,
    key == null || (typeof key === 'string' && isStorable(key) && [...key].length <= COLUMN_LENGTH)
      ? ''
      : `key must be null or a string of at most 255 ${CHARACTERS}, got ${shown(key)}`,
    jsonFault('payload', payload),
    headers === undefined || isFlat(headers)
      ? ''
      : `headers must be a flat object of strings of ${CHARACTERS}, got ${shown(headers)}`,
    maxAttempts === undefined ||
    (Number.isInteger(maxAttempts) && maxAttempts > 0 && maxAttempts <= MAX_INTEGER)
      ? ''
      : `maxAttempts must be an integer from 1 to ${MAX_INTEGER}, got ${shown(maxAttempts)}`,
  ].filter((fault) => fault !== '');
}

function isFlat(headers: unknown): boolean {
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) return false;
  return Object.entries(headers).every(
    ([name, value]) => typeof value === 'string' && isStorable(name + value),
  );
}
