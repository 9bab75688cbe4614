import { PassThrough, type Readable } from 'node:stream';
import { type ErrorCode, OrchestratorError } from '../domain/errors.ts';

export type StorageCode = Extract<ErrorCode, 'storage_unavailable' | 'storage_refused' | 'upload_corrupt'>;

/** What a tier's client throws, as this service tells it. Neither text has credentials in it. */
export interface Diagnosis {
  code: StorageCode;
  reason: string;
}

/** A tier as its errors name it, and what it makes of its client's errors. */
export interface Place {
  /** Without credentials. */
  title: string;
  diagnose(error: unknown): Diagnosis;
}

/** Does a tier's work. @throws the reason of `signal` once that has aborted, else OrchestratorErrors only */
export async function inPlace<T>(place: Place, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  try {
    signal.throwIfAborted();
    return await work();
  } catch (error) {
    signal.throwIfAborted();
    throw asStorageError(place, error);
  }
}

/** The same bytes; what goes wrong with them is told as the tier's. */
export function bytesOf(place: Place, bytes: Readable): Readable {
  const told = new PassThrough();
  bytes.once('error', (error) => told.destroy(asStorageError(place, error)));
  // A reader may go before it has read anything.
  told.once('close', () => bytes.destroy());
  return bytes.pipe(told);
}

/** The client's error itself is not kept as a cause: it may hold a request with its headers. */
export function asStorageError({ title, diagnose }: Place, error: unknown): OrchestratorError {
  if (error instanceof OrchestratorError) return error;
  const { code, reason } = diagnose(error);
  return new OrchestratorError(code, `${title}: ${reason}`);
}

export const brokenCopy = ({ title }: Place, key: string, found: string): OrchestratorError =>
  new OrchestratorError('upload_corrupt', `${title}: what is under the key ${key} ${found}.`);

export const takenKey = ({ title }: Place, key: string): OrchestratorError =>
  new OrchestratorError('upload_refused', `${title}: the key ${key} has other bytes already.`);

export const noCopy = ({ title }: Place, key: string): OrchestratorError =>
  new OrchestratorError('storage_refused', `${title}: there is nothing under the key ${key}.`);

const KEY = /^[0-9a-f]{64}$/;

/** Keys become parts of paths. @throws TypeError if one is not 64 hex digits */
export function checkKey(key: string): string {
  if (!KEY.test(key)) throw new TypeError(`not a key of 64 hex digits: ${JSON.stringify(key)}`);
  return key;
}
