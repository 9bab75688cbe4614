import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runRound } from './round.ts';
import { describeVerdict, isClean } from './verdict.ts';

const seed = 20_251_224;
const seconds = 40;

test(`random faults for ${seconds} s (seed ${seed}): nothing lost, nothing twice, all in order`, async (context) => {
  const { verdict, faults } = await runRound(seed, seconds, (line) => context.diagnostic(line));
  assert.ok(isClean(verdict), describeVerdict(verdict));
  assert.ok(verdict.rows > 0 && faults.total() > 0);
});
