// The command's words: what is asked wrongly is answered with what can be asked.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { publishedPorts, services } from '../../stack/stack.ts';

const cli = fileURLToPath(new URL('../../stack/cli.ts', import.meta.url));
const stack = (...words: string[]) => spawnSync(process.execPath, [cli, ...words], { encoding: 'utf8' });

test('a wrong command or service ends with the usage and exit code 2', () => {
  for (const [words, reason] of [
    [[], 'a command is missing'],
    [['restart'], '"restart" is not a command'],
    [['start', 'mysql'], '"mysql" is not a service'],
    [['env', 'kafka'], 'env takes no further words'],
  ] as const) {
    const { status, stderr } = stack(...words);
    assert.equal(status, 2);
    assert.ok(stderr.startsWith(reason), stderr);
    assert.match(stderr, /usage: npm run stack/);
  }
});

test('env prints export lines with the published ports', () => {
  const { status, stdout } = stack('env');
  assert.equal(status, 0);
  for (const line of stdout.trim().split('\n')) assert.match(line, /^export [A-Z0-9_]+='[^']*'(:"\$PATH")?$/);
  assert.ok(stdout.includes(`SA01_TEMPORAL_HOST='127.0.0.1:${publishedPorts.temporal}'`));
  assert.match(
    stdout,
    /^export SA01_PG_BIN_DIR='\/.+'\nexport SA01_BACKUP_DESTINATION='file:\/\/\/.+\/backups'$/m,
  );
});

test('status lists every service', () => {
  const { status, stdout } = stack('status');
  assert.equal(status, 0);
  for (const name of services) assert.match(stdout, new RegExp(`^${name} `, 'm'));
});
