import { contentFault } from './consumedRecord.ts';
import { MEMORY_LIMIT_BYTES } from './memories.ts';
import { CHARACTERS, fitsColumn, jsonFault, shown } from './storable.ts';

/** A memory as a TypeScript caller hands it to `remember`. */
export interface Memory {
  /** 1 to 255 characters, any but NUL. */
  tenant: string;
  /** 1 to 100 characters; `wm` unless said. */
  namespace?: string;
  /** A JSON object of at most 600,000 bytes and 99 levels. */
  payload: Record<string, unknown>;
  /** 1 to 255 characters; by default made of tenant, namespace and content. */
  idempotencyKey?: string;
}

const TENANT_LENGTH = 255;
const NAMESPACE_LENGTH = 100;
const KEY_LENGTH = 255;
const encoder = new TextEncoder();

/** One sentence for each field that the queue could not take; none if the memory is good. */
export function memoryFaults({ tenant, namespace, payload, idempotencyKey }: Memory): string[] {
  return [
    textFault('tenant', tenant, TENANT_LENGTH),
    namespace === undefined ? '' : textFault('namespace', namespace, NAMESPACE_LENGTH),
    idempotencyKey === undefined ? '' : textFault('idempotencyKey', idempotencyKey, KEY_LENGTH),
    payloadFault(payload),
  ].filter((fault) => fault !== '');
}

function textFault(name: string, value: unknown, most: number): string {
  if (fitsColumn(value, most) && (value as string).trim() !== '') return '';
  return `${name} must be a string of 1 to ${most} ${CHARACTERS}, got ${shown(value)}`;
}

function payloadFault(payload: unknown): string {
  const fault = jsonFault('payload', payload);
  if (typeof payload === 'object' && fault !== '') return fault;
  const json = fault === '' ? JSON.stringify(payload) : undefined;
  // What has a toJSON may become anything.
  if (!json?.startsWith('{')) return `payload must be a JSON object, got ${shown(payload)}`;
  const bytes = encoder.encode(json).length;
  if (bytes > MEMORY_LIMIT_BYTES)
    return `payload must have at most ${MEMORY_LIMIT_BYTES} bytes as JSON, got ${bytes}`;
  // A replay brings it by the topic, where the message is a level of its own.
  const kept = contentFault(JSON.parse(json), 2);
  return kept === undefined ? '' : `payload cannot be kept: ${kept}`;
}

/** JSON with the fields of every object in the order of their names, so that equal content has equal text. */
export const sortedJson = (value: unknown): string =>
  JSON.stringify(value, (_, field: unknown) =>
    typeof field === 'object' && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  );
