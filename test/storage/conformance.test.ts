import { openTiers, type TierSettings } from '../../src/storage/tiers.ts';
import { testStack } from '../support/stack.ts';
import { learnt, stackS3, storageDirectory } from '../support/storage.ts';
import { conforms } from '../support/storageConformance.ts';
import { StorageProxy } from '../support/storageProxy.ts';

const none: TierSettings = { s3: undefined, storageDir: undefined, redisUrl: undefined };

const opened = (settings: Partial<TierSettings>) => {
  const all = { ...none, ...settings };
  return { tier: openTiers(all)[0]!, settings: all };
};

conforms('S3 that is known to honour If-None-Match', async () => {
  const under = opened({ s3: stackS3() });
  await learnt(under.tier);
  return under;
});

conforms('S3 that ignores If-None-Match', async (t) => {
  const s3 = stackS3();
  const proxy = await StorageProxy.to(s3.endpoint);
  t.after(() => proxy[Symbol.asyncDispose]());
  proxy.ignoresConditions = s3;
  return { ...opened({ s3: { ...s3, endpoint: proxy.endpoint } }), ignoresConditions: true };
});

conforms('A directory', async (t) => {
  const directory = await storageDirectory();
  t.after(() => directory[Symbol.asyncDispose]());
  return opened({ storageDir: directory.root });
});

conforms('Redis', async () => opened({ redisUrl: testStack().env().SA01_REDIS_URL! }));
