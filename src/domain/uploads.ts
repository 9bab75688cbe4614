/** The places where an upload's bytes may be kept, best first. */
export const TIER_NAMES = ['s3', 'filesystem', 'redis'] as const;
export type TierName = (typeof TIER_NAMES)[number];
