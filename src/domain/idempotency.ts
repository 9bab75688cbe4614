import { OrchestratorError } from './errors.ts';
import { CHARACTERS, fitsColumn, jsonFault, shown } from './storable.ts';

/**
 * What the record of a key says, by Postgres's clock alone:
 *
 *               claim                      complete
 *   absent ──────────────▶ in progress ──────────────▶ completed
 *     ▲ ▲                  │   ▲  ▲ │                      │
 *     │ └──── release ─────┘   │  └─┘ renew                │
 *     │                  claim │   │                       │
 *     │                        │   │ holdSeconds are over  │ keepSeconds are over
 *     │        purge           │   ▼                       │
 *     └──────────────────── expired ◀──────────────────────┘
 *
 * Each claim makes a holder of its own. Only the last one can renew, complete and release, and it can as long as nobody
 * has claimed the key after it, even a little late: then its work is done and nobody else has begun it.
 *
 * A record that a neighbour wrote has no holder: it is completed until it expires.
 */
export interface IdempotencyRecord {
  operation: string;
  /** Null: whoever wrote it gave no payload. */
  payloadHash: string | null;
  completed: boolean;
  /** Of a completed one; null where there is nothing to hand on. */
  result: unknown;
  /** In progress: the end of the hold. Completed: until when the result is kept. ISO 8601. */
  until: string;
}

/** What is to be done once. */
export interface IdempotentWork {
  /** 1 to 255 characters. */
  key: string;
  /** 1 to 100 characters: what is done under this key, so that two kinds of work that share one are told apart. */
  operation: string;
}

/** How long a claim counts, and then its result. */
export interface IdempotencyTimes {
  /** For so long the key is the holder's, unless it renews; 1 to 86,400. After that another caller may run. */
  holdSeconds: number;
  /** For so long the result is handed to later callers; 1 to 315,360,000. */
  keepSeconds: number;
}

/** How long a caller waits that meets another at work: from 0 to 86,400; 0 unless said. */
export interface IdempotencyPatience {
  waitSeconds?: number;
}

export type MetRecord = { outcome: 'completed'; result: unknown } | { outcome: 'in_progress'; until: Date };

/**
 * What a caller gets that meets a record which has not expired. Payloads are compared by their hash, the sha256 of the
 * canonical JSON, and only where both are known.
 * @throws OrchestratorError idempotency_mismatch if the record is of another operation or of another payload
 */
export function meet(
  record: IdempotencyRecord,
  { key, operation, payloadHash }: IdempotentWork & { payloadHash: string | null },
): MetRecord {
  if (record.operation !== operation) {
    const other = JSON.stringify(record.operation);
    throw new OrchestratorError(
      'idempotency_mismatch',
      `${named({ key, operation })} is in use for operation ${other}`,
    );
  }
  if (payloadHash !== null && record.payloadHash !== null && payloadHash !== record.payloadHash) {
    throw new OrchestratorError(
      'idempotency_mismatch',
      `${named({ key, operation })} is in use with another payload`,
    );
  }
  return record.completed
    ? { outcome: 'completed', result: record.result }
    : { outcome: 'in_progress', until: new Date(record.until) };
}

/** For messages; never with the payload. */
export const named = ({ key, operation }: IdempotentWork): string =>
  `key ${JSON.stringify(key)} of operation ${JSON.stringify(operation)}`;

const MAX_KEY = 255;
const MAX_OPERATION = 100;
const MAX_HOLD_SECONDS = 86_400;
const MAX_KEEP_SECONDS = 315_360_000;
const MAX_WAIT_SECONDS = 86_400;

/** One sentence for each field at fault; none if a claim can be made of it. */
export function idempotencyFaults(work: IdempotentWork & IdempotencyTimes & IdempotencyPatience): string[] {
  const { key, operation, holdSeconds, keepSeconds, waitSeconds = 0 } = work;
  return [
    textFault('key', key, MAX_KEY),
    textFault('operation', operation, MAX_OPERATION),
    secondsFault('holdSeconds', holdSeconds, 1, MAX_HOLD_SECONDS),
    secondsFault('keepSeconds', keepSeconds, 1, MAX_KEEP_SECONDS),
    secondsFault('waitSeconds', waitSeconds, 0, MAX_WAIT_SECONDS),
  ].filter((fault) => fault !== '');
}

const textFault = (name: string, value: unknown, length: number): string =>
  fitsColumn(value, length)
    ? ''
    : `${name} must be a string of 1 to ${length} ${CHARACTERS}, got ${shown(value)}`;

const secondsFault = (name: string, value: unknown, least: number, most: number): string =>
  typeof value === 'number' && value >= least && value <= most
    ? ''
    : `${name} must be a number from ${least} to ${most}, got ${shown(value)}`;

/** Results are for handing on, not for keeping files in. */
export const MAX_RESULT_BYTES = 1_000_000;

/** Why a result cannot be stored, in one sentence that does not quote it; '' if it can. */
export function resultFault(result: unknown): string {
  const fault = jsonFault('result', result);
  if (fault !== '') return fault;
  const bytes = new TextEncoder().encode(JSON.stringify(result)).length;
  return bytes > MAX_RESULT_BYTES
    ? `result must be at most ${MAX_RESULT_BYTES} bytes as JSON, got ${bytes}`
    : '';
}
