// What the inputs of `backup` and `restoreDrill` have to be: one sentence for each fault.
import { type BackupType, backupTypes } from './backupFacts.ts';
import type { BackupTask, RestoreDrillInput } from './backups.ts';
import { isObject } from './consumedRecord.ts';

const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d/;
/** The largest column that the idempotency key goes to. */
const KEY_LENGTH = 255;
const SOURCE_LENGTH = 1_024;
const METADATA_LENGTH = 10_000;

type Rule = [isGood: (value: unknown) => boolean, expected: string];

/** Control characters have no business in a name; a newline could end one line of something and begin another. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

const isType = (value: unknown): boolean => backupTypes.includes(value as BackupType);

const isName = (value: unknown): boolean =>
  typeof value === 'string' &&
  value.length > 0 &&
  value.length <= SOURCE_LENGTH &&
  value.isWellFormed() &&
  !CONTROL.test(value);

/** No host but a bucket, no user and no password: what a history or a manifest keeps must be no secret. */
const DESTINATION = /^(file:\/\/\/[^?#]*|s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](\/[^?#@]*)?)$/;

const TYPES = `one of ${backupTypes.slice(0, -1).join(', ')} and ${backupTypes.at(-1)}`;

const TASK_FIELDS: Record<keyof BackupTask, Rule> = {
  type: [isType, TYPES],
  source: [isName, `a text of 1 to ${SOURCE_LENGTH} characters without control characters`],
  destination: [
    (value) => value == null || (isName(value) && DESTINATION.test(value as string)),
    'file:///directory or s3://bucket/prefix without user and password, or nothing',
  ],
  metadata: [
    (value) => value == null || (isObject(value) && JSON.stringify(value).length <= METADATA_LENGTH),
    `an object of at most ${METADATA_LENGTH} characters as JSON, or nothing`,
  ],
  queued_at: [
    (value) =>
      value == null || (typeof value === 'string' && MOMENT.test(value) && !Number.isNaN(Date.parse(value))),
    'a moment such as 2026-01-31T12:00:00Z, or nothing',
  ],
};

/** One sentence for each field at fault; none if it is a task. */
export function backupTaskFaults(task: unknown): string[] {
  if (!isObject(task)) return [`a backup takes an object {type, source}: got ${shown(task)}`];
  return fieldFaults(task, TASK_FIELDS);
}

const DRILL_FIELDS: Record<keyof RestoreDrillInput, Rule> = {
  backup: [(value) => value == null || isName(value), 'the id of a backup, or nothing'],
  source: [(value) => value == null || isName(value), 'the source of a backup, or nothing'],
  type: [(value) => value == null || isType(value), `${TYPES}, or nothing`],
};

/** As `backupTaskFaults`, for a drill. */
export function drillInputFaults(input: unknown): string[] {
  if (!isObject(input)) return [`a drill takes no input, or an object: got ${shown(input)}`];
  return fieldFaults(input, DRILL_FIELDS);
}

/** One sentence, or none: of a workflow's id that a person chose. */
export const keyFaults = (key: string): string[] =>
  key.length > 0 && key.length <= KEY_LENGTH
    ? []
    : [`the workflow's id must be backup/ and then a key of 1 to ${KEY_LENGTH} characters`];

/** An unknown field is refused: behind a misspelt `destination` a backup would go somewhere else. */
function fieldFaults(input: Record<string, unknown>, rules: Record<string, Rule>): string[] {
  const unknown = Object.keys(input).filter((name) => !Object.hasOwn(rules, name));
  return [
    ...unknown.map((name) => `${name} is no field: expected ${Object.keys(rules).join(', ')}`),
    ...Object.entries(rules).flatMap(([name, [isGood, expected]]) =>
      isGood(Object.hasOwn(input, name) ? input[name] : undefined)
        ? []
        : [`${name} must be ${expected}: got ${shown(input[name])}`],
    ),
  ];
}

/** A destination may hold a password where it is wrong. */
const shown = (value: unknown): string =>
  typeof value === 'string' && value.includes('@') ? '(hidden, it may hold a password)' : brief(value);

const brief = (value: unknown): string => (JSON.stringify(value) ?? 'nothing').slice(0, 200);
