import { FilesystemTier } from './filesystem.ts';
import { RedisTier } from './redis.ts';
import { S3Tier } from './s3.ts';
import type { S3Settings } from './s3Client.ts';
import type { StorageTier } from './tier.ts';

/** A tier without settings is not used. */
export interface TierSettings {
  s3: S3Settings | undefined;
  storageDir: string | undefined;
  redisUrl: string | undefined;
}

/** The configured tiers, best first. Nothing is connected yet, and nothing has to be closed. */
export function openTiers({ s3, storageDir, redisUrl }: TierSettings): StorageTier[] {
  const tiers = [
    s3 && new S3Tier(s3),
    storageDir !== undefined && new FilesystemTier(storageDir),
    redisUrl !== undefined && new RedisTier(redisUrl),
  ];
  return tiers.filter((tier) => tier !== undefined && tier !== false);
}
