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
const CHARACTERS = 'characters (without NUL or half a surrogate pair)';
/** What JSON.stringify escapes and jsonb cannot store; a backslash that is itself escaped does not count. */
const UNSTORABLE_ESCAPE = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/i;

/** One sentence for each field that the outbox could not take; none if the message is good. */
export function outboxMessageFaults(message: OutboxMessage): string[] {
  const { idempotencyKey, topic, key, payload, headers, maxAttempts } = message;
  return [
    fitsColumn(idempotencyKey)
      ? ''
      : `idempotencyKey must be a string of 1 to 255 ${CHARACTERS}, got ${shown(idempotencyKey)}`,
    typeof topic === 'string' && isLegalTopic(topic)
      ? ''
      : `topic must be 1 to 249 of a-z A-Z 0-9 . _ -, got ${shown(topic)}`,
    key == null || (typeof key === 'string' && isStorable(key) && [...key].length <= COLUMN_LENGTH)
      ? ''
      : `key must be null or a string of at most 255 ${CHARACTERS}, got ${shown(key)}`,
    payloadFault(payload),
    headers === undefined || isFlat(headers)
      ? ''
      : `headers must be a flat object of strings of ${CHARACTERS}, got ${shown(headers)}`,
    maxAttempts === undefined ||
    (Number.isInteger(maxAttempts) && maxAttempts > 0 && maxAttempts <= MAX_INTEGER)
      ? ''
      : `maxAttempts must be an integer from 1 to ${MAX_INTEGER}, got ${shown(maxAttempts)}`,
  ].filter((fault) => fault !== '');
}

/** Postgres counts characters, not UTF-16 units. */
function fitsColumn(value: unknown): boolean {
  return typeof value === 'string' && value !== '' && isStorable(value) && [...value].length <= COLUMN_LENGTH;
}

/** Postgres stores no NUL; half a surrogate pair is refused in JSON, and on its way to a text column it becomes U+FFFD. */
const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed();

function payloadFault(payload: unknown): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(payload);
  } catch (error) {
    return `payload must be JSON: ${error instanceof Error ? error.message : String(error)}`;
  }
  if (json === undefined) return `payload must be JSON, got ${typeof payload}`;
  return UNSTORABLE_ESCAPE.test(json)
    ? 'payload must not contain NUL or half a surrogate pair, which jsonb refuses'
    : '';
}

function isFlat(headers: unknown): boolean {
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) return false;
  return Object.entries(headers).every(
    ([name, value]) => typeof value === 'string' && isStorable(name + value),
  );
}

/** Undefined where JSON cannot say it: a function, a bigint, a circle. */
function toJson(value: unknown): string | undefined {
  try {
    return JSON.stringify(value);
  } catch {
    return undefined;
  }
}

function shown(value: unknown): string {
  const text = toJson(value) ?? typeof value;
  return text.length > 80 ? `${text.slice(0, 77)}… (${text.length} characters)` : text;
}
