// Workers killed with -9 where a backup is about to become one; `npm run soak -- backups` does so at each of its steps.
import { suite, test } from 'node:test';
import { killAtEachStep } from '../support/backupKills.ts';

const quiet = () => {};

suite('a worker killed with -9: another one makes the backup, and nothing else is left', {
  concurrency: true,
}, () => {
  test('while its manifest is written, in a directory', async () => {
    await killAtEachStep({ kind: 'filesystem', rows: 1_000, only: /manifest is written/ }, quiet);
  });

  test('when its manifest is in S3, and not in its row', async () => {
    await killAtEachStep({ kind: 's3', rows: 1_000, only: /manifest is there/ }, quiet);
  });
});
