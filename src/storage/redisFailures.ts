import { ErrorReply, MultiErrorReply } from 'redis';
import { describeError } from '../domain/errors.ts';
import type { Diagnosis, StorageCode } from './failures.ts';

/** By the first word of what Redis answers: these pass by themselves, or as soon as another server takes over. */
const PASSING = [
  'LOADING',
  'BUSY',
  'TRYAGAIN',
  'READONLY',
  'MASTERDOWN',
  'CLUSTERDOWN',
  'NOREPLICAS',
  'UNBLOCKED',
];

/** Answers are refusals (OOM, MISCONF, NOAUTH, WRONGPASS, NOPERM, …) but for the passing ones; all else is an outage. */
export function diagnoseRedis(error: unknown): Diagnosis {
  if (error instanceof MultiErrorReply) return diagnoseRedis(error.errors().next().value);
  const reason = describeError(error);
  if (!(error instanceof ErrorReply)) return { code: 'storage_unavailable', reason };
  const code: StorageCode = PASSING.includes(reason.split(' ', 1)[0]!)
    ? 'storage_unavailable'
    : 'storage_refused';
  return { code, reason };
}
