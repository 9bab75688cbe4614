/** A record as a consumer read it. */
export interface ConsumedRecord {
  topic: string;
  partition: number;
  /** 64 bits wide, so it stays a string. */
  offset: string;
  /** When it was written, in milliseconds of the epoch. */
  timestamp: number;
  key: Uint8Array | null;
  /** Null: a tombstone. */
  value: Uint8Array | null;
  /** Of a header that is there twice, the last. */
  headers: Record<string, Uint8Array>;
}

/** `error_type` of the dead letter of a record that no message could be made of. */
export const NOT_UNDERSTOOD = 'message_not_understood';

const MAX_DEPTH = 100;
export const COLUMN_LENGTH = 255;
const IDEMPOTENCY_HEADER = 'idempotency_key';

export type Fields = Record<string, unknown>;

/** Postgres counts characters, not UTF-16 units. */
export const isText = (value: unknown, most: number): boolean =>
  typeof value === 'string' && value !== '' && [...value].length <= most;
export const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The record's own idempotency key; undefined where it has none, null where it is none. */
export function idempotencyHeader({ headers }: Pick<ConsumedRecord, 'headers'>): string | null | undefined {
  const bytes = Object.hasOwn(headers, IDEMPOTENCY_HEADER) ? headers[IDEMPOTENCY_HEADER] : undefined;
  if (bytes === undefined) return undefined;
  const key = storableText(bytes);
  return key !== undefined && isText(key, COLUMN_LENGTH) ? key : null;
}

/** Undefined where the bytes are not UTF-8. A byte order mark is no JSON, so it is not dropped. */
export function decoded(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** The text in these bytes, undefined where they are none that Postgres can store. */
export function storableText(bytes: Uint8Array | null): string | undefined {
  const found = bytes === null ? undefined : decoded(bytes);
  return found !== undefined && isStorable(found) ? found : undefined;
}

/** Postgres stores no NUL, and jsonb no half of a surrogate pair. */
const isStorable = (found: string): boolean => !found.includes('\0') && found.isWellFormed();

/** Whether the bytes are JSON that the outbox can carry: then a replay can send them again. */
export const isSendable = (value: Uint8Array | null): boolean => !('fault' in parseStorable(value));

/** The JSON object that a record's value is, or a sentence that says why it is none. */
export function parseObject(value: Uint8Array | null): { fields: Fields } | { fault: string } {
  const parsed = parseStorable(value);
  if ('fault' in parsed) return parsed;
  if (!isObject(parsed.json)) return { fault: `the value must be a JSON object: got ${kindOf(parsed.json)}` };
  return { fields: MANY_DIGITS.test(parsed.text) ? withEveryDigit(parsed.text) : parsed.json };
}

function parseStorable(value: Uint8Array | null): ReturnType<typeof parseJson> {
  const parsed = parseJson(value);
  if ('fault' in parsed) return parsed;
  const fault = contentFault(parsed.json) ?? numberFault(parsed.text);
  return fault === undefined ? parsed : { fault };
}

function parseJson(value: Uint8Array | null): { json: unknown; text: string } | { fault: string } {
  if (value === null) return { fault: 'the record has no value (a tombstone)' };
  if (value.length === 0) return { fault: 'the value is empty' };
  const found = decoded(value);
  if (found === undefined) return { fault: 'the value is not UTF-8' };
  try {
    return { json: JSON.parse(found), text: found };
  } catch {
    return { fault: 'the value is not JSON' };
  }
}

/** What JSON can say and this service cannot keep; `depth` is that of the value itself. */
export function contentFault(value: unknown, depth = 1): string | undefined {
  if (typeof value === 'string')
    return isStorable(value) ? undefined : 'a text in the value holds NUL or half a surrogate pair';
  if (typeof value === 'number')
    return Number.isFinite(value) ? undefined : 'a number in the value is larger than 1.8e308';
  if (typeof value !== 'object' || value === null) return undefined;
  if (depth > MAX_DEPTH) return `the value is nested more than ${MAX_DEPTH} levels deep`;
  for (const [name, child] of Object.entries(value)) {
    const fault = contentFault(name) ?? contentFault(child, depth + 1);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

/** Gives what `change` makes of each number, told as it is written. Only for JSON that is known not to be deep: it recurses. */
function mapNumbers(text: string, change: (value: number, source: string) => unknown): unknown {
  return JSON.parse(text, (_name: string, value: unknown, context?: { source: string }) =>
    typeof value === 'number' && context ? change(value, context.source) : value,
  );
}

/** Postgres keeps 16,383 digits behind the point, and a double 308 before it. */
const ENDLESS = /[eE]-\d{4}|[\d.]{400}/;

function numberFault(text: string): string | undefined {
  let found: string | undefined;
  const look = (value: number, source: string) => {
    if (ENDLESS.test(source)) found = 'a number in the value has more digits than can be kept';
    return value;
  };
  if (ENDLESS.test(text)) mapNumbers(text, look);
  return found;
}

const MANY_DIGITS = /[\d.]{16}/;

/** Numbers of many digits (ids of 64 bits) would be rounded: they keep their text, which JSON.stringify writes as it is. */
const withEveryDigit = (text: string): Fields =>
  mapNumbers(text, (value, source) =>
    MANY_DIGITS.test(source) && String(value) !== source ? rawJson(source) : value,
  ) as Fields;

const { rawJSON: rawJson } = JSON as unknown as { rawJSON(source: string): unknown };

/** For people: contents stay out of sentences. */
export function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'string') return `a text of ${value.length} characters`;
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
