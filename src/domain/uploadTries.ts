import type { ErrorCode } from './errors.ts';
import { type TierName, tiersAbove, tiersBelow, type UploadReceipt } from './uploads.ts';

/** Why a tier does not have the bytes. `untried`: its health says that it is not worth it. `source`: nobody could. */
export interface TierReason {
  tier: TierName | 'source';
  code: Extract<ErrorCode, 'storage_unavailable' | 'storage_refused' | 'upload_corrupt'> | 'untried';
  message: string;
}

/**
 * What became of one round over the tiers:
 *
 * - `stored`: a tier has verified the bytes, and the row says so. `better` are the tiers above it, `leftovers` those below
 *   it that may hold bytes as well.
 * - `refused`: every configured tier has answered, and none will have it; spends an attempt.
 * - `away`: no tier has it, and at least one may do later; spends none.
 */
export type TryOutcome = StoredOutcome | FailedOutcome;

export interface StoredOutcome {
  kind: 'stored';
  receipt: UploadReceipt;
  better: TierName[];
  leftovers: TierName[];
}

export interface FailedOutcome {
  kind: 'refused' | 'away';
  /** One line for `last_error`. */
  error: string;
}

/** What a stored upload is, where these tiers are configured. */
export const storedOutcome = (
  receipt: UploadReceipt,
  touched: readonly TierName[],
  configured: readonly TierName[],
): StoredOutcome => ({
  kind: 'stored',
  receipt,
  better: tiersAbove(receipt.tier, configured),
  leftovers: tiersBelow(receipt.tier, touched),
});

/** What a round without success is, from the reasons of the tiers that are configured. */
export function failedOutcome(configured: readonly TierName[], reasons: TierReason[]): FailedOutcome {
  const isDefinite = (tier: TierName) =>
    reasons.some(
      (reason) =>
        reason.tier === tier && (reason.code === 'storage_refused' || reason.code === 'upload_corrupt'),
    );
  // Without a single tier nothing was refused: somebody still has to configure one.
  const refused = configured.length > 0 && configured.every(isDefinite);
  return { kind: refused ? 'refused' : 'away', error: describeReasons(reasons) };
}

const describeReasons = (reasons: TierReason[]): string =>
  reasons.map(({ tier, code, message }) => `${tier}: ${code}: ${message}`).join('; ') ||
  'no storage tier is configured: set SA01_S3_ENDPOINT and SA01_S3_BUCKET, or SA01_STORAGE_DIR';
