/** "characters", as the faults of texts name them. */
export const CHARACTERS = 'characters (without NUL or half a surrogate pair)';

/** What JSON.stringify escapes and jsonb cannot store; a backslash that is itself escaped does not count. */
const UNSTORABLE_ESCAPE = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/i;

/** Whether it is a text of 1 to `length` characters that Postgres can store. It counts characters, not UTF-16 units. */
export const fitsColumn = (value: unknown, length: number): boolean =>
  typeof value === 'string' && value !== '' && isStorable(value) && [...value].length <= length;

/** Postgres stores no NUL; half a surrogate pair is refused in JSON, and on its way to a text column it becomes U+FFFD. */
export const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed();

/** Why jsonb cannot hold the value, in one sentence that begins with `name`; '' if it can. */
export function jsonFault(name: string, value: unknown): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    return `${name} must be JSON: ${error instanceof Error ? error.message : String(error)}`;
  }
  if (json === undefined) return `${name} must be JSON, got ${typeof value}`;
  return UNSTORABLE_ESCAPE.test(json)
    ? `${name} must not contain NUL or half a surrogate pair, which jsonb refuses`
    : '';
}

/** A value in a fault's sentence; long ones are cut. */
export function shown(value: unknown): string {
  const text = toJson(value) ?? typeof value;
  return text.length > 80 ? `${text.slice(0, 77)}… (${text.length} characters)` : text;
}

/** Undefined where JSON cannot say it: a function, a bigint, a circle. */
function toJson(value: unknown): string | undefined {
  try {
    return JSON.stringify(value);
  } catch {
    return undefined;
  }
}
