import { type BackupContent, backupTypes, compressions, type StoredFile } from './backupFacts.ts';
import type { BackupManifest } from './backups.ts';
import { isObject } from './consumedRecord.ts';

/**
 * What a manifest's text says; undefined if it is none of ours. What a manifest says is not trusted further than its
 * form: a restore compares every byte with it.
 */
export function parseManifest(text: string): BackupManifest | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  return isObject(parsed) && matches(parsed, MANIFEST_FORM)
    ? (parsed as unknown as BackupManifest)
    : undefined;
}

type Form = Record<string, (value: unknown) => boolean>;

const matches = (value: Record<string, unknown>, form: Form): boolean =>
  Object.entries(form).every(([name, isGood]) =>
    isGood(Object.hasOwn(value, name) ? value[name] : undefined),
  );

const isText = (value: unknown): boolean => typeof value === 'string';
const isMoment = (value: unknown): boolean => typeof value === 'string' && !Number.isNaN(Date.parse(value));
const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const listOf =
  (isGood: (value: unknown) => boolean) =>
  (value: unknown): boolean =>
    Array.isArray(value) && value.every(isGood);
const mapOf =
  (isGood: (value: unknown) => boolean) =>
  (value: unknown): boolean =>
    isObject(value) && Object.values(value).every(isGood);
const orNone =
  (isGood: (value: unknown) => boolean) =>
  (value: unknown): boolean =>
    value === undefined || isGood(value);

const FILE_FORM = {
  name: (value) => value === 'data' || value === 'globals',
  size: isCount,
  sha256: isText,
  plainSize: isCount,
  plainSha256: isText,
} satisfies Record<keyof StoredFile, Form[string]>;

const CONTENT_FORM = {
  files: listOf((value) => isObject(value) && matches(value, FILE_FORM)),
  versions: mapOf(isText),
  rows: orNone(mapOf(isCount)),
  entries: orNone(isCount),
  notes: listOf(isText),
  compression: (value) => compressions.some((one) => one === value),
  recipients: listOf(isText),
} satisfies Record<keyof BackupContent, Form[string]>;

const MANIFEST_FORM = {
  format: (value) => value === 1,
  id: isText,
  idempotency_key: isText,
  type: (value) => backupTypes.some((one) => one === value),
  source: isText,
  destination: isText,
  metadata: isObject,
  started_at: isMoment,
  finished_at: isMoment,
  size: isCount,
  sha256: isText,
  content: (value) => isObject(value) && matches(value, CONTENT_FORM),
} satisfies Record<keyof BackupManifest, Form[string]>;
