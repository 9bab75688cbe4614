import { test } from 'node:test';
import { memoryStorm } from './memoryStorm.ts';

test('memories written during an outage arrive once and in order, though SomaBrain flaps and the worker is killed', async () => {
  await memoryStorm({ tenants: 40, perTenant: 50, kills: 1 });
});
