// `npm run soak -- consumers`, `memories`, `uploads` or `backups`: what takes longer than a test may, on a stack of its own. Exits with 1 if it does not hold.
import { createTestStack } from '../../stack/testStack.ts';
import { stackEnvironment } from '../support/stack.ts';

const say = (line: string) => console.log(`  ${line}`);

const soaks: Record<string, () => Promise<boolean>> = {
  async consumers() {
    const { holds, runConsumers } = await import('./consumers.ts');
    const verdict = await runConsumers(20_000, [2, 1], say);
    console.log(verdict);
    return holds(verdict);
  },

  /** Fails by an error. */
  async memories() {
    const { memoryStorm } = await import('./memoryStorm.ts');
    await memoryStorm({ tenants: 200, perTenant: 250, kills: 3 }, say);
    const { compareMemories } = await import('./memoryRates.ts');
    for (const delaySeconds of [0, 0.02])
      for (const api of ['batch', 'single'] as const) await compareMemories({ api, delaySeconds }, say);
    return true;
  },

  /** Fails by an error. */
  async backups() {
    const { killAtEachStep } = await import('../support/backupKills.ts');
    const kinds = ['filesystem', 's3'] as const;
    const killing = kinds.map((kind) => killAtEachStep({ kind, rows: 450_000 }, say));
    // If one fails the other's workers must not outlive this process.
    await Promise.allSettled(killing);
    const kills = await Promise.all(killing);
    say(`${kills.join(' and ')} kills, one at each step: one verified backup each, no orphans`);
    const { backupKills } = await import('./backups.ts');
    await backupKills({ rows: 300_000, kills: 10 }, say);
    return true;
  },

  async uploads() {
    const { holds, uploadStorm } = await import('./uploads.ts');
    const { largeUploads } = await import('./uploadMemory.ts');
    const { deleteUploadTopic } = await import('../support/uploadWorld.ts');
    const isFlat = await largeUploads(say);
    await deleteUploadTopic();
    const verdict = await uploadStorm({ uploads: 2_000, kills: 3 }, say);
    console.log(JSON.stringify(verdict));
    return isFlat && holds(verdict);
  },
};

const soak = soaks[process.argv[2] ?? ''];
if (!soak) {
  console.error(`npm run soak -- ${Object.keys(soaks).join(' | ')}`);
  process.exit(2);
}
const stack = await createTestStack((line) => console.error(line));
let held = false;
try {
  await stack.start();
  Object.assign(process.env, stackEnvironment(stack));
  held = await soak();
  console.log(held ? 'HOLDS' : 'DOES NOT HOLD');
} finally {
  await stack.remove();
}
process.exit(held ? 0 : 1);
