import { openTiers, type TierSettings } from '../../src/storage/tiers.ts';
import { testStack } from '../support/stack.ts';
import { stackS3, storageDirectory } from '../support/storage.ts';
import { conforms } from '../support/storageConformance.ts';

const none: TierSettings = { s3: undefined, storageDir: undefined, redisUrl: undefined };

const opened = (settings: Partial<TierSettings>) => {
  const all = { ...none, ...settings };
  return { tier: openTiers(all)[0]!, settings: all };
};

conforms('S3', async () => opened({ s3: stackS3() }));

conforms('A directory', async (t) => {
  const directory = await storageDirectory();
  t.after(() => directory[Symbol.asyncDispose]());
  return opened({ storageDir: directory.root });
});

conforms('Redis', async () => opened({ redisUrl: testStack().env().SA01_REDIS_URL! }));
