import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ApplicationFailure } from '@temporalio/activity';
import { WorkflowFailedError } from '@temporalio/client';
import {
  MEMORY_REPORT_SIGNAL,
  MEMORY_WORKFLOW_ID,
  type MemorySyncReport,
} from '../../src/domain/memories.ts';
import {
  memoryReportSignal,
  memoryStatusQuery,
  memorySync,
  pauseMemorySignal,
  resumeMemorySignal,
  syncNowSignal,
} from '../../src/workflows/memory.ts';
import { eventually } from '../support/eventually.ts';
import { temporalNamespace } from '../support/worker.ts';
import { beatUntilCancelled, runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';
const report = (overrides: Partial<MemorySyncReport> = {}): MemorySyncReport => ({
  state: 'idle',
  counts: {
    pending: 3,
    oldest_seconds: 9,
    synced_total: 7,
    dead_total: 1,
    synced_per_second: 0.5,
    tenants: [{ tenant: 'acme', pending: 3 }],
  },
  lastError: null,
  ...overrides,
});

async function idleUntilCancelled(): Promise<MemorySyncReport> {
  await beatUntilCancelled();
  return report();
}

/** A sync workflow whose activities are the test's. */
async function syncWith(
  syncMemories: () => Promise<MemorySyncReport>,
  { args = [] as unknown[], workflowId = MEMORY_WORKFLOW_ID, hurryMemories = async () => {} } = {},
) {
  const stack = new AsyncDisposableStack();
  const namespace = stack.use(await temporalNamespace());
  stack.use(await runWorkflows(namespace.name, taskQueue, { hurryMemories, syncMemories }));
  const handle = await namespace.client.workflow.start(memorySync, {
    workflowId,
    taskQueue,
    args: args as [],
  });
  const status = () => namespace.client.workflow.getHandle(workflowId).query(memoryStatusQuery);
  const becomes = (state: string) =>
    eventually(`the sync to be ${state}`, async () => (await status()).state === state);
  return { handle, namespace, status, becomes, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

test('pause ends the activity and keeps what it reported, resume starts it again', async () => {
  let runs = 0;
  await using sync = await syncWith(async () => {
    runs += 1;
    return idleUntilCancelled();
  });
  await eventually('the first run', () => runs === 1);
  await sync.handle.signal(pauseMemorySignal);
  await sync.becomes('paused');
  const { synced_total, dead_total, pending, tenants } = await sync.status();
  assert.deepEqual([synced_total, dead_total, pending], [7, 1, 3]);
  assert.deepEqual(tenants, [{ tenant: 'acme', pending: 3 }]);
  await sync.handle.signal(resumeMemorySignal);
  await eventually('the second run', () => runs === 2);
  await sync.becomes('idle');
  await sync.handle.signal(pauseMemorySignal);
  await sync.becomes('paused');
});

test('a pause during an outage of Postgres does not wait for its end', async () => {
  await using sync = await syncWith(() => Promise.reject(new Error('Postgres is away')));
  await sync.handle.signal(pauseMemorySignal);
  await sync.becomes('paused');
});

test('syncNow reaches the running activity by way of the short one; a pause stays a pause', async () => {
  let hurried = 0;
  const hurryMemories = async () => {
    hurried += 1;
  };
  await using sync = await syncWith(idleUntilCancelled, { hurryMemories });
  await sync.handle.signal(syncNowSignal);
  await eventually('the hint', () => hurried === 1);
  await sync.handle.signal(pauseMemorySignal);
  await sync.becomes('paused');
  await sync.handle.signal(syncNowSignal);
  assert.equal((await sync.status()).state, 'paused');
  assert.equal(hurried, 1);
});

test('status shows what the activity reports, and is not harmed by reports that make no sense', async () => {
  await using sync = await syncWith(idleUntilCancelled);
  const lastError = 'SomaBrain answers 503';
  await sync.handle.signal(memoryReportSignal, report({ state: 'waiting', lastError }));
  await sync.becomes('waiting');
  assert.equal((await sync.status()).last_error, lastError);
  await sync.handle.signal(memoryReportSignal, report({ state: 'syncing', counts: null }));
  await sync.becomes('syncing');
  const before = await sync.status();
  for (const nonsense of [
    undefined,
    'x',
    null,
    [],
    {},
    { state: 'paused' },
    { state: 'idle', counts: 3, lastError: null },
    { state: 'idle', counts: { ...report().counts, tenants: [1] }, lastError: null },
    { state: 'idle', counts: null, lastError: 3 },
  ]) {
    await sync.handle.signal(MEMORY_REPORT_SIGNAL, nonsense);
  }
  assert.deepEqual(await sync.status(), before);
  await sync.handle.signal(pauseMemorySignal);
  await sync.becomes('paused');
});

test('a paused sync stays paused in its next run', async () => {
  await using sync = await syncWith(idleUntilCancelled, { args: [{ historyLimit: 5 }] });
  await sync.handle.signal(pauseMemorySignal);
  await sync.becomes('paused');
  await sync.handle.signal(memoryReportSignal, report({ state: 'syncing' }));
  await eventually('a new run', async () => {
    const { runId } = await sync.namespace.client.workflow.getHandle(MEMORY_WORKFLOW_ID).describe();
    return runId !== sync.handle.firstExecutionRunId;
  });
  const { state, synced_total } = await sync.status();
  assert.deepEqual([state, synced_total], ['paused', 7]);
});

suite('bad input fails at once, in words', () => {
  const bad: [unknown, string, RegExp][] = [
    [null, MEMORY_WORKFLOW_ID, /takes no input, or an object: got null/],
    [7, MEMORY_WORKFLOW_ID, /got 7/],
    [{ historyLimit: 4 }, MEMORY_WORKFLOW_ID, /historyLimit must be a whole number from 5 on: got 4/],
    [{ status: { state: 'idle' } }, MEMORY_WORKFLOW_ID, /status is what an earlier run left/],
    [{ tenant: 'a' }, MEMORY_WORKFLOW_ID, /tenant is no field/],
    [{}, 'memory-sync-2', /runs once, as workflow memory-sync: got "memory-sync-2"/],
  ];
  for (const [input, workflowId, expected] of bad) {
    test(`${JSON.stringify(input)} as ${workflowId}`, async () => {
      await using sync = await syncWith(idleUntilCancelled, { args: [input], workflowId });
      const error = await sync.handle.result().catch((thrown: unknown) => thrown);
      assert.ok(error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure);
      assert.equal(error.cause.type, 'invalid_input');
      assert.match(error.cause.message, expected);
    });
  }
});
