import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { Worker } from '@temporalio/worker';
import { workflowBundle } from '../../src/workflowBundle.ts';

const histories = globSync(path.join(import.meta.dirname, 'histories', '*.json'));

assert.ok(histories.length > 0, 'there are recorded histories');

for (const file of histories) {
  test(`the workflows replay ${path.basename(file)}`, async () => {
    const history = JSON.parse(readFileSync(file, 'utf8'));
    const { workflowId } = history.events[0].workflowExecutionStartedEventAttributes;
    await Worker.runReplayHistory({ workflowBundle: await workflowBundle() }, history, workflowId);
  });
}
