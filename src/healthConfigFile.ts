// The optional file that SA01_HEALTH_CONFIG names: what it may say, and one sentence for each thing that is wrong with it.
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { ConfigError, shown } from './config.ts';
import { COMPONENT_NAMES, type ComponentName } from './domain/healthComponents.ts';
import { contradictions } from './healthConfigChecks.ts';

/** Components that are probed by HTTP where the file has their address. */
const BY_URL: readonly ComponentName[] = [
  'gateway',
  'auth_service',
  'conversation_worker',
  'tool_executor',
  'voice_service',
  'multimodal',
];
/** Components of which one living provider is enough. */
const BY_MEMBERS: readonly ComponentName[] = ['llm', 'audio_tts', 'audio_stt'];

// Each schema's error is the second half of its sentence: "… : expected <error>".

const numberFrom = (least: number, most: number) => {
  const expected = `a number from ${least} to ${most}`;
  return z.number(expected).min(least, expected).max(most, expected).exactOptional();
};

const wholeFrom = (least: number, most: number) => {
  const expected = `a whole number from ${least} to ${most}`;
  return z.int(expected).min(least, expected).max(most, expected).exactOptional();
};

/** So many numbers, each larger than the one before. */
const ascending = <T extends number[]>(count: T['length'], least: number, most: number) =>
  z
    .custom<T>(
      (value) =>
        Array.isArray(value) &&
        value.length === count &&
        value.every((item) => typeof item === 'number' && item >= least && item <= most) &&
        value.every((item, index) => index === 0 || item > value[index - 1]),
      `${count} numbers from ${least} to ${most}, each larger than the one before`,
    )
    .exactOptional();

const object = <Shape extends z.core.$ZodShape>(shape: Shape) =>
  z.strictObject(shape, {
    error: ({ code }) =>
      code === 'unrecognized_keys' ? `one of ${Object.keys(shape).join(', ')}` : 'an object',
  });

const byComponent = <Schema extends z.ZodType>(schemaOf: (name: ComponentName) => Schema) =>
  object(
    Object.fromEntries(COMPONENT_NAMES.map((name) => [name, schemaOf(name)])) as Record<
      ComponentName,
      Schema
    >,
  );

const httpUrl = z.custom<string>(
  (value) => typeof value === 'string' && /^https?:$/.test(URL.parse(value)?.protocol ?? ''),
  'an http:// or https:// URL',
);

const members = z.record(z.string().regex(/^[\w.-]{1,64}$/), object({ url: httpUrl }), {
  error: ({ code }) =>
    code === 'invalid_key'
      ? '1 to 64 letters, digits, dots, underscores or hyphens'
      : 'an object of providers',
});

const breaker = object({
  failures: wholeFrom(1, 1000),
  openSeconds: numberFrom(0.1, 86_400),
  maxOpenSeconds: numberFrom(0.1, 86_400),
  trials: wholeFrom(1, 100),
});

const componentFields = {
  url: httpUrl.exactOptional(),
  members: members.refine((all) => Object.keys(all).length > 0, 'at least one provider').exactOptional(),
  limitSeconds: numberFrom(0.1, 300),
  slowSeconds: ascending<[number, number, number]>(3, 0.001, 300),
  errorRates: ascending<[number, number]>(2, 0, 1),
  dependsOn: byComponent(() => z.enum(['hard', 'soft'], '"hard" or "soft"').exactOptional()).exactOptional(),
  breaker: z.union([z.literal(false), breaker], 'false, or an object').exactOptional(),
  monitored: z.literal(false, 'false, or nothing').exactOptional(),
};

const none = (which: readonly ComponentName[]) => z.never(`it only for ${which.join(', ')}`).exactOptional();

/** A field that a component does not have is refused as such: the address would not be probed, and nobody would know. */
const component = (name: ComponentName) =>
  object({
    ...componentFields,
    ...(BY_URL.includes(name) ? {} : { url: none(BY_URL) }),
    ...(BY_MEMBERS.includes(name) ? {} : { members: none(BY_MEMBERS) }),
  } as typeof componentFields).exactOptional();

const schema = object({
  intervalSeconds: wholeFrom(1, 3600),
  rules: object({
    softIntervalSeconds: numberFrom(1, 60),
    down: wholeFrom(1, 100),
    up: wholeFrom(1, 100),
    graceSeconds: numberFrom(0, 86_400),
    suppressionSeconds: numberFrom(0, 86_400),
    errorWindow: wholeFrom(1, 1000),
  }).exactOptional(),
  components: byComponent(component).exactOptional(),
});

export type HealthConfigFile = z.infer<typeof schema>;
export type ComponentOverrides = NonNullable<NonNullable<HealthConfigFile['components']>[ComponentName]>;

/** @throws ConfigError with all that is wrong with the file */
export function readHealthConfigFile(file: string): HealthConfigFile {
  const content = parse(file, read(file));
  const { data, error } = schema.safeParse(content);
  const sentences = [
    ...(error?.issues ?? []).flatMap((issue) => sentencesOf(issue, content)),
    ...contradictions(content),
  ];
  if (data === undefined || sentences.length > 0)
    throw new ConfigError([...new Set(sentences)].map((sentence) => `${file}: ${sentence}`));
  return data;
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new ConfigError([
      `SA01_HEALTH_CONFIG is ${JSON.stringify(file)}: expected a file that can be read (${code}).`,
    ]);
  }
}

function parse(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    const before = text.slice(0, faultPosition(text)).split('\n');
    const place = `line ${before.length}, column ${before.at(-1)!.length + 1}`;
    throw new ConfigError([`${file}: it is not JSON from ${place} on: expected one JSON object.`]);
  }
}

/**
 * Where the text stops being JSON. V8 tells the position of some faults; of an unexpected character it tells the text
 * around it instead, which may hold a password. That character is the last of the shortest beginning with this fault.
 */
function faultPosition(text: string): number {
  const faultOf = (length: number): string => {
    try {
      JSON.parse(text.slice(0, length));
      return '';
    } catch (error) {
      return (error as SyntaxError).message;
    }
  };
  const [, position] = /at position (\d+)/.exec(faultOf(text.length)) ?? [];
  if (position !== undefined) return Number(position);
  let good = 0;
  let bad = text.length + 1;
  while (bad - good > 1) {
    const middle = Math.floor((good + bad) / 2);
    if (faultOf(middle).startsWith('Unexpected token')) bad = middle;
    else good = middle;
  }
  return good;
}

type Path = readonly PropertyKey[];

function sentencesOf(issue: z.core.$ZodIssue, content: unknown): string[] {
  const { path, message } = issue;
  const value = path.reduce<unknown>(
    (inside, key) => (inside as Record<PropertyKey, unknown>)?.[key],
    content,
  );
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => `${place([...path, key])} is unknown: expected ${message}.`);
  if (issue.code === 'invalid_key') return [`${place(path)} is no name: expected ${message}.`];
  // Of the kinds that it may be, an object means the last one.
  if (issue.code === 'invalid_union' && typeof value === 'object' && value !== null) {
    const inner = issue.errors.at(-1) ?? [];
    return inner.flatMap((fault) => sentencesOf({ ...fault, path: [...path, ...fault.path] }, content));
  }
  return [`${place(path)} is ${shownValue(value)}: expected ${message}.`];
}

const place = (path: Path): string =>
  path.length === 0
    ? 'all of it'
    : path.map((key) => (/^[\w-]+$/.test(String(key)) ? String(key) : shown(String(key)))).join('.');

/** As in config.ts: where a password may hide, no more is shown than can be told apart from it. */
function shownValue(value: unknown): string {
  if (value === undefined) return 'not set';
  if (typeof value === 'string') return shown(value);
  const json = JSON.stringify(value);
  if (/[@?]/.test(json)) return '(hidden, it may hold a password)';
  return json.length > 200 ? `${json.slice(0, 200)}…` : json;
}
