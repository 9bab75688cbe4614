import {
  COLUMN_LENGTH,
  type ConsumedRecord,
  decoded,
  type Fields,
  idempotencyHeader,
  isObject,
  isText,
  kindOf,
  parseObject,
} from './consumedRecord.ts';
import { tenantInKey } from './memories.ts';

/** `somabrain.memory.remember`: something that SomaBrain shall remember. */
export interface MemoryMessage {
  memoryId: string;
  tenant: string;
  namespace: string;
  payload: Record<string, unknown>;
}

/** `upload.retry`: a file that could not be stored. Its bytes are in the message, or where `dataRef` says. */
export interface UploadMessage {
  filename: string;
  contentType: string | null;
  metadata: Record<string, unknown>;
  /** In bytes. */
  size: number;
  dataBase64: string | null;
  dataRef: string | null;
}

/** `backup.tasks`: something to be backed up. */
export interface BackupMessage {
  type: string;
  source: string;
  /** Null: where this service puts its backups. */
  destination: string | null;
  metadata: Record<string, unknown>;
  /** In milliseconds of the epoch. */
  queuedAt: number;
}

/** What is consumed, and what a message of it says. */
export interface TopicMessages {
  'somabrain.memory.remember': MemoryMessage;
  'upload.retry': UploadMessage;
  'backup.tasks': BackupMessage;
}
export type ConsumedTopic = keyof TopicMessages;

/** A message and the key by which its owner knows it again, or a sentence that says why it cannot be one. */
export type Understanding<T> = { ok: T; idempotencyKey: string } | { fault: string };

/** SHA-256 in hex; the domain has none of its own. */
export type Digest = (data: string | Uint8Array) => string;

type Rule = [isGood: (value: unknown) => boolean, expected: string];

const text = (most: number): Rule => [(value) => isText(value, most), `a text of 1 to ${most} characters`];
const object: Rule = [isObject, 'an object'];
const orNothing = ([isGood, expected]: Rule): Rule => [
  (value) => value == null || isGood(value),
  `${expected}, or null`,
];

const isBase64 = (value: unknown): boolean =>
  typeof value === 'string' && value.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(value);
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)?$/;

/** Python writes a moment in UTC without saying so. */
function epochMs(moment: unknown): number {
  if (typeof moment !== 'string') return Number.NaN;
  const [match, offset] = MOMENT.exec(moment) ?? [];
  return match === undefined ? Number.NaN : Date.parse(offset === undefined ? `${moment}Z` : moment);
}

interface Shape<T> {
  /** Fields that are not named here are left alone. */
  fields: Record<string, Rule>;
  /** The field by which records are keyed: a record's key says the same, or there is none. */
  keyedBy?: string;
  /** Its key becomes part of a workflow's id. */
  hasWorkflow?: boolean;
  /** What one field cannot say alone. */
  contradictions?(fields: Fields): string[];
  read(fields: Fields): T;
  idempotencyKey(message: T, digest: Digest): string;
}

const SHAPES: { [Topic in ConsumedTopic]: Shape<TopicMessages[Topic]> } = {
  'somabrain.memory.remember': {
    fields: {
      memory_id: text(COLUMN_LENGTH),
      tenant_id: text(COLUMN_LENGTH),
      namespace: orNothing(text(100)),
      payload: object,
    },
    keyedBy: 'tenant_id',
    read: ({ memory_id, tenant_id, namespace, payload }) => ({
      memoryId: memory_id as string,
      tenant: tenant_id as string,
      namespace: (namespace as string | null | undefined) ?? 'wm',
      payload: payload as Fields,
    }),
    idempotencyKey: ({ tenant, memoryId }, digest) => `memory:${tenantInKey(tenant, digest)}:${memoryId}`,
  },
  'upload.retry': {
    fields: {
      filename: text(1_024),
      content_type: orNothing(text(COLUMN_LENGTH)),
      metadata: orNothing(object),
      size: [(value) => Number.isSafeInteger(value) && (value as number) >= 0, 'a number of bytes'],
      data_b64: orNothing([isBase64, 'base64']),
      data_ref: orNothing(text(1_024)),
    },
    keyedBy: 'filename',
    hasWorkflow: true,
    contradictions({ data_b64, data_ref, size }) {
      if (data_b64 == null && data_ref == null)
        return ['data_b64 and data_ref are missing: the producer sent no bytes'];
      const bytes = data_b64 == null ? size : atob(data_b64 as string).length;
      return bytes === size ? [] : [`size is ${size}, but data_b64 holds ${bytes} bytes`];
    },
    read: ({ filename, content_type, metadata, size, data_b64, data_ref }) => ({
      filename: filename as string,
      contentType: (content_type as string | null | undefined) ?? null,
      metadata: (metadata as Fields | null | undefined) ?? {},
      size: size as number,
      dataBase64: (data_b64 as string | null | undefined) ?? null,
      dataRef: (data_ref as string | null | undefined) ?? null,
    }),
    idempotencyKey({ filename, dataBase64, dataRef }, digest) {
      const bytes =
        dataBase64 === null ? dataRef! : Uint8Array.from(atob(dataBase64), (byte) => byte.charCodeAt(0));
      return `upload:${filename}:${digest(bytes).slice(0, 16)}`;
    },
  },
  'backup.tasks': {
    fields: {
      type: text(COLUMN_LENGTH),
      source: text(1_024),
      destination: orNothing(text(1_024)),
      metadata: orNothing(object),
      queued_at: [(value) => !Number.isNaN(epochMs(value)), 'a moment such as 2026-01-31T12:00:00Z'],
    },
    hasWorkflow: true,
    read: ({ type, source, destination, metadata, queued_at }) => ({
      type: type as string,
      source: source as string,
      destination: (destination as string | null | undefined) ?? null,
      metadata: (metadata as Fields | null | undefined) ?? {},
      queuedAt: epochMs(queued_at),
    }),
    idempotencyKey: ({ type, source, destination, queuedAt }) =>
      `backup:${type}:${source}:${Math.floor(queuedAt / 1000)}${destination === null ? '' : `:${destination}`}`,
  },
};

export const consumedTopics = Object.keys(SHAPES) as ConsumedTopic[];

/**
 * What a record of this topic says. Its idempotency key is its header `idempotency_key`, or follows from what it says;
 * a derived key that no column or no workflow id could hold becomes a digest of itself.
 */
export function understand<Topic extends ConsumedTopic>(
  topic: Topic,
  record: ConsumedRecord,
  digest: Digest,
): Understanding<TopicMessages[Topic]> {
  const parsed = parseObject(record.value);
  if ('fault' in parsed) return parsed;
  const { fields } = parsed;
  const shape: Shape<TopicMessages[Topic]> = SHAPES[topic];
  const header = idempotencyHeader(record);
  const faults = [
    ...fieldFaults(shape, fields),
    keyFault(shape, fields, record.key),
    header === null ? `the header idempotency_key must be a text of 1 to ${COLUMN_LENGTH} characters` : '',
    shape.hasWorkflow && header && !fitsWorkflowId(header)
      ? `the header idempotency_key must have at most ${WORKFLOW_KEY_BYTES} bytes`
      : '',
  ].filter((fault) => fault !== '');
  if (faults.length === 0) faults.push(...(shape.contradictions?.(fields) ?? []));
  if (faults.length > 0) return { fault: faults.join('; ') };
  const ok = shape.read(fields);
  return { ok, idempotencyKey: header ?? fitting(shape.idempotencyKey(ok, digest), digest) };
}

/** In bytes of UTF-8: with what is put before it, it stays below the 1,000 that Temporal takes as a workflow's id. */
export const WORKFLOW_KEY_BYTES = 900;
export const fitsWorkflowId = (key: string): boolean =>
  new TextEncoder().encode(key).length <= WORKFLOW_KEY_BYTES;

/** A key that columns and workflow ids hold: too long a one becomes a digest of itself. */
export const fitting = (key: string, digest: Digest): string =>
  isText(key, COLUMN_LENGTH) && fitsWorkflowId(key)
    ? key
    : `${key.slice(0, key.indexOf(':'))}:${digest(key)}`;

function fieldFaults({ fields: rules }: Pick<Shape<unknown>, 'fields'>, fields: Fields): string[] {
  return Object.entries(rules).flatMap(([name, [isGood, expected]]) => {
    const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
    return isGood(value) ? [] : [`${name} must be ${expected}: got ${kindOf(value)}`];
  });
}

/** Whose message it is must not depend on whom one asks. */
function keyFault(
  { keyedBy }: Pick<Shape<unknown>, 'keyedBy'>,
  fields: Fields,
  key: Uint8Array | null,
): string {
  if (keyedBy === undefined || key === null || typeof fields[keyedBy] !== 'string') return '';
  return decoded(key) === fields[keyedBy] ? '' : `the record's key must be its ${keyedBy}`;
}
