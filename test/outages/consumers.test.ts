import assert from 'node:assert/strict';
import { test } from 'node:test';
import { holds, runConsumers } from '../soak/consumers.ts';

test('3,000 messages, one in twenty malformed: through a kill -9 and a restart of the broker each good one is owned once, each bad one a letter once', async (t) => {
  const verdict = await runConsumers(3_000, [1, 0], (line) => t.diagnostic(line));
  t.diagnostic(JSON.stringify(verdict));
  assert.ok(holds(verdict), JSON.stringify(verdict));
});
