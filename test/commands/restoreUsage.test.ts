import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { UsageError } from '../../src/commands/parse.ts';
import { parseRestore } from '../../src/commands/parseRestore.ts';

const plain = { overwrite: false, withoutOwners: false };

suite('what is typed becomes a command', () => {
  for (const [typed, command] of [
    ['list', { name: 'list' }],
    ['b --into core', { name: 'restore', backup: 'b', target: { into: 'core' }, ...plain }],
    [
      'b --into core --overwrite --without-owners',
      { name: 'restore', backup: 'b', target: { into: 'core' }, overwrite: true, withoutOwners: true },
    ],
    ['b --globals roles.sql', { name: 'restore', backup: 'b', target: { globals: 'roles.sql' }, ...plain }],
    ['hold b why', { name: 'hold', backup: 'b', why: 'why' }],
  ] as const)
    test(typed, () => assert.deepEqual(parseRestore(typed.split(' ')).command, command));
});

suite('what makes no command is refused with a sentence', () => {
  for (const [typed, sentence] of [
    ['b', /needs one of --into and --globals/],
    ['list --without-owners', /^--without-owners belongs to the restore of a backup\.$/],
    ['b --into x --force', /Unknown option/],
  ] as const)
    test(typed, () => {
      const parsing = () => parseRestore(typed.split(' '));
      assert.throws(parsing, (error) => error instanceof UsageError && sentence.test(error.message));
    });
});
