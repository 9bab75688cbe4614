import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { describeError, errorCatalogue, OrchestratorError } from '../../src/domain/errors.ts';
import { rejectionCodes } from '../../src/domain/outbox.ts';

describe('describeError makes one line of whatever was thrown', () => {
  const own = new OrchestratorError('unknown_shard', 'shard 9 does not exist');
  const nested = new AggregateError([new AggregateError([own, new Error('second')])], 'several');
  const cases: [name: string, thrown: unknown, line: string][] = [
    ['an error of ours', own, 'unknown_shard: shard 9 does not exist'],
    ['any other error', new TypeError('not a function'), 'not a function'],
    ['an error without a message', new RangeError(), 'RangeError'],
    ['an aggregate, by its first error', nested, 'unknown_shard: shard 9 does not exist'],
    ['an empty aggregate', new AggregateError([], 'all failed'), 'all failed'],
    ['a string', 'plain', 'plain'],
    ['nothing', undefined, 'undefined'],
  ];
  for (const [name, thrown, line] of cases) test(name, () => assert.equal(describeError(thrown), line));
});

test('An error knows from its code whether a second try can help', () => {
  const cause = new Error('ECONNREFUSED');
  const away = new OrchestratorError('kafka_unavailable', 'no broker', { cause });
  assert.equal(away.retryable, true);
  assert.equal(away.cause, cause);
  assert.equal(away.name, 'OrchestratorError');
  assert.equal(new OrchestratorError('invalid_message', 'no topic').retryable, false);
});

test('docs/errors.md has a row for each code, and says of each error whether a second try can help', () => {
  const file = path.join(import.meta.dirname, '..', '..', 'docs', 'errors.md');
  const rows = readFileSync(file, 'utf8').matchAll(/^\| `(\w+)` *\|(.*)\|$/gm);
  const documented = new Map([...rows].map(([, code, cells]) => [code, cells!.split('|')]));
  const codes = [...Object.keys(errorCatalogue), ...rejectionCodes];
  assert.deepEqual([...documented.keys()].sort(), codes.sort());
  for (const [code, { retryable }] of Object.entries(errorCatalogue)) {
    assert.equal(documented.get(code)?.[1]?.trim(), retryable ? 'yes' : 'no', code);
  }
});
