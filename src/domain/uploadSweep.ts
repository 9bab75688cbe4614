import { TIER_NAMES, type TierName } from './uploads.ts';

/** What uploads left behind and the janitor removed; in a dry run, what it would. */
export interface Swept {
  /** Copies in the tiers that were begun and never finished: multipart uploads, `.partial` files, temporary keys. */
  stranded: number;
  /** Finished copies below the one that an upload names, and those of uploads that were cancelled long ago. */
  leftovers: number;
  /** Files of the spool that no upload needs. */
  spool_files: number;
}

export const SWEPT_PLACES = [...TIER_NAMES, 'spool'] as const;
export type SweptPlace = TierName | 'spool';
/** Where something could not be found out or removed, and why. */
export type Unreachable = Partial<Record<SweptPlace, string>>;

export interface Sweep {
  swept: Swept;
  unreachable: Unreachable;
}

export const NOTHING_SWEPT: Sweep = { swept: { stranded: 0, leftovers: 0, spool_files: 0 }, unreachable: {} };

/** Hours after which what was left behind may go. */
export interface SweepLimits {
  /** What was begun so long ago has no activity any more: none may take longer. */
  stranded: number;
  /** Since the row was last changed. */
  leftovers: number;
  /** Since the file was last written; only those of uploads that have their bytes elsewhere by now. */
  done: number;
  /** Files that no upload knows: the transaction in which one is queued may be open still, or its message on its way. */
  unknown: number;
}

export const SWEEP_LIMITS: SweepLimits = { stranded: 24, leftovers: 24, done: 24, unknown: 7 * 24 };

/**
 * What a file of the spool is to the uploads:
 * `needed`: one waits for its bytes, or could do so again; `done`: all that knew it have its bytes in S3 or on the
 * filesystem; `unknown`: none knows it, or it was written anew after they had its bytes.
 */
export type SpoolUse = 'needed' | 'done' | 'unknown';

/** @param ageHours since the file was last written */
export const isSpoolFileDue = (use: SpoolUse, ageHours: number, limits: SweepLimits): boolean =>
  use !== 'needed' && ageHours > limits[use];

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function isSweep(value: unknown): value is Sweep {
  if (!isObject(value) || !isObject(value.swept) || !isObject(value.unreachable)) return false;
  const { swept, unreachable } = value;
  return (
    [swept.stranded, swept.leftovers, swept.spool_files].every(Number.isInteger) &&
    Object.values(unreachable).every((reason) => typeof reason === 'string')
  );
}
