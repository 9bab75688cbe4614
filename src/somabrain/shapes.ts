import { createHash } from 'node:crypto';
import type { MemoryOutcome, OutgoingMemory } from '../domain/memories.ts';
import { type Answer, isObject } from './http.ts';
import { verdictOnItem, verdictOnStored } from './verdict.ts';

/** One of the ways in which servers take memories. */
export interface Shape {
  path: string;
  isBatch: boolean;
  /** The body for memories of one tenant and namespace; only a batch has more than one. */
  body(memories: OutgoingMemory[]): string;
  /** What a 2xx with a JSON object means for each of them. */
  outcomes(memories: OutgoingMemory[], body: NonNullable<Answer['body']>): MemoryOutcome[];
}

const json = JSON.stringify;

/** `{"a":1,"raw":<payload as it is>}`: payloads stay text, so that no number loses digits. */
const object = (fields: [name: string, text: string][]): string =>
  `{${fields.map(([name, text]) => `${json(name)}:${text}`).join(',')}}`;

const item = ({ key, payload }: OutgoingMemory): [string, string][] => [
  ['key', json(key)],
  ['value', payload],
];

const place = ({ tenant, namespace }: OutgoingMemory): [string, string][] => [
  ['tenant', json(tenant)],
  ['namespace', json(namespace)],
];

const denied: MemoryOutcome = { kind: 'away', reason: 'SomaBrain answers 200 and says ok: false' };

function one(body: NonNullable<Answer['body']>): MemoryOutcome[] {
  return [body.ok === false ? denied : verdictOnStored(body)];
}

/** SomaBrain's own API, many memories a call. */
const batch: Shape = {
  path: '/memory/remember/batch',
  isBatch: true,
  body: (memories) =>
    object([
      ...place(memories[0]!),
      ['items', `[${memories.map((memory) => object(item(memory))).join(',')}]`],
    ]),
  outcomes(memories, { results }) {
    const given = Array.isArray(results) ? results : [];
    const byKey = new Map(given.filter(isObject).map((result) => [result.key, result]));
    // Without keys they count by their place, if there is one for each.
    const ordered = given.length === memories.length && byKey.has(undefined);
    return memories.map(({ key }, index) =>
      verdictOnItem(byKey.get(key) ?? (ordered ? given[index] : undefined)),
    );
  },
};

/** SomaBrain's own API, one memory a call. */
const single: Shape = {
  path: '/memory/remember',
  isBatch: false,
  body: ([memory]) => object([...place(memory!), ...item(memory!)]),
  outcomes: (_, body) => one(body),
};

/** As the platform's own client has it. */
const platform: Shape = {
  path: '/v1/memory/remember',
  isBatch: false,
  body: ([memory]) =>
    object([['payload', memory!.payload], ...place(memory!), ['timestamp', json(memory!.createdAt)]]),
  outcomes: (_, body) => one(body),
};

/** In the order of preference. */
export const shapes: readonly Shape[] = [batch, single, platform];

/**
 * What the call is known by, as a header may carry it. A memory that is sent alone goes by its own key, at every try. A
 * batch goes by its memories: repeated, it has the same key, and composed otherwise, or after a rejection, another.
 */
export function idempotencyHeader(memories: OutgoingMemory[]): string {
  const [memory] = memories;
  if (memories.length === 1) return headerText(memory!.key);
  const content = json(memories.map(({ key, attempts }) => [key, attempts]));
  return `memories:${createHash('sha256').update(content).digest('hex')}`;
}

/** Headers are printable ASCII: everything else is percent-encoded, and so is the percent sign. */
const headerText = (text: string): string => text.replace(/[^\x21-\x24\x26-\x7e]/gu, encodeURIComponent);
