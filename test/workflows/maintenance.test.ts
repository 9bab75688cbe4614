import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import { WorkflowFailedError } from '@temporalio/client';
import { NativeConnection, Worker } from '@temporalio/worker';
import type { MaintenanceActivities, PurgeRun } from '../../src/activities/maintenance.ts';
import type { SweepRun, UploadSweepActivities } from '../../src/activities/uploadSweep.ts';
import { type PurgeProgress, purgeStart } from '../../src/domain/maintenance.ts';
import { NOTHING_SWEPT, type Sweep } from '../../src/domain/uploadSweep.ts';
import { workflowBundle } from '../../src/workflowBundle.ts';
import { maintenance, maintenanceStatusQuery } from '../../src/workflows/maintenance.ts';
import { eventually } from '../support/eventually.ts';
import { testStack } from '../support/stack.ts';
import { temporalNamespace } from '../support/worker.ts';
import { beatUntilCancelled } from '../support/workflows.ts';

const taskQueue = 'test';
const half: PurgeProgress = {
  ...purgeStart(),
  from: '2026-01-02',
  purged: { published: 500, idempotency: 0, health: 0, uploads: 0 },
};
const done: PurgeProgress = {
  stage: 'done',
  from: purgeStart().from,
  purged: { published: 900, idempotency: 3, health: 2, uploads: 1 },
  oldestKept: '2026-02-03T04:05:06.000Z',
};

const swept: Sweep = {
  swept: { stranded: 4, leftovers: 0, spool_files: 2 },
  unreachable: { s3: 'storage_unavailable: no answer' },
};

/** A maintenance workflow whose activities are done by `purge` and `sweepUploads`. */
async function maintenanceWith(
  purge: MaintenanceActivities['purge'],
  args: unknown[] = [],
  sweepUploads: UploadSweepActivities['sweepUploads'] = async () => swept,
) {
  const stack = new AsyncDisposableStack();
  const namespace = stack.use(await temporalNamespace());
  const connection = await NativeConnection.connect({ address: testStack().env().SA01_TEMPORAL_HOST! });
  stack.defer(() => connection.close());
  const worker = await Worker.create({
    connection,
    namespace: namespace.name,
    taskQueue,
    workflowBundle: await workflowBundle(),
    activities: { purge, sweepUploads },
    maxHeartbeatThrottleInterval: '100 milliseconds',
  });
  const running = worker.run();
  stack.defer(async () => {
    worker.shutdown();
    await running;
  });
  const handle = await namespace.client.workflow.start(maintenance, {
    workflowId: 'maintenance/test',
    taskQueue,
    args: args as [],
  });
  const status = () => namespace.client.workflow.getHandle('maintenance/test').query(maintenanceStatusQuery);
  return { handle, status, namespace, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

async function failureOf(result: Promise<unknown>): Promise<unknown> {
  const error = await result.then(
    () => assert.fail('the workflow did not fail'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof WorkflowFailedError, String(error));
  return error.cause;
}

test('the activity is called again, from where it stopped, until nothing is left', async () => {
  const calls: PurgeRun[] = [];
  await using run = await maintenanceWith(async (call) => {
    calls.push(call);
    return calls.length < 3 ? half : done;
  });
  const { since, ...result } = await run.handle.result();
  assert.deepEqual(result, {
    state: 'done',
    dry_run: false,
    purged: { published: 900, idempotency: 3, health: 2, uploads: 1 },
    oldest_kept: '2026-02-03T04:05:06.000Z',
    swept: swept.swept,
    unreachable: swept.unreachable,
    last_error: null,
  });
  assert.ok(Date.parse(since) > 0);
  assert.deepEqual(await run.status(), { since, ...result }, 'the result is the status');
  assert.deepEqual(
    calls.map(({ dryRun, progress }) => ({ dryRun, from: progress.from })),
    [
      { dryRun: false, from: purgeStart().from },
      { dryRun: false, from: half.from },
      { dryRun: false, from: half.from },
    ],
  );
});

test('a dry run is one for the activity and in the status', async () => {
  const dryRuns: boolean[] = [];
  await using run = await maintenanceWith(
    async ({ dryRun }) => {
      dryRuns.push(dryRun);
      return done;
    },
    [{ dryRun: true }],
    async ({ dryRun }) => {
      dryRuns.push(dryRun);
      return swept;
    },
  );
  assert.equal((await run.handle.result()).dry_run, true);
  assert.deepEqual(dryRuns, [true, true]);
});

test('what uploads left behind is swept when nothing is left to be purged, once; what was swept before an outage counts', async () => {
  const runs: SweepRun[] = [];
  let purges = 0;
  await using run = await maintenanceWith(
    async () => {
      purges += 1;
      assert.equal(runs.length, 0);
      return purges < 2 ? half : done;
    },
    [],
    async (call) => {
      runs.push(call);
      if (runs.length > 3) return swept;
      const details = [{ ...NOTHING_SWEPT, swept: { stranded: 3, leftovers: 0, spool_files: 0 } }];
      throw ApplicationFailure.create({ message: 'no server', type: 'postgres_unavailable', details });
    },
  );
  const status = await eventually('the error in the status', async () => {
    const found = await run.status();
    return found.last_error === null ? undefined : found;
  });
  assert.deepEqual(status.swept, { stranded: 3, leftovers: 0, spool_files: 0 });
  assert.deepEqual(status.purged, done.purged);
  const { state, unreachable } = await run.handle.result();
  assert.deepEqual(
    { state, unreachable, purges },
    { state: 'done', unreachable: swept.unreachable, purges: 2 },
  );
  assert.deepEqual(
    runs.map(({ dryRun, sweep }) => [dryRun, sweep.swept.stranded]),
    [
      [false, 0],
      [false, 0],
      [false, 0],
      [false, 3],
    ],
  );
});

test('an outage is told by the status, what was done before it counts, and it goes on by itself', async () => {
  const froms: string[] = [];
  await using run = await maintenanceWith(async ({ progress }) => {
    froms.push(progress.from);
    if (froms.length > 3) return done;
    throw ApplicationFailure.create({ message: 'no server', type: 'postgres_unavailable', details: [half] });
  });
  const status = await eventually('the error in the status', async () => {
    const found = await run.status();
    return found.last_error === null ? undefined : found;
  });
  assert.equal(status.state, 'running');
  assert.equal(status.last_error, 'postgres_unavailable: no server');
  assert.deepEqual(status.purged, half.purged);
  const { state, last_error } = await run.handle.result();
  assert.deepEqual({ state, last_error }, { state: 'done', last_error: null });
  assert.equal(froms.at(-1), half.from);
});

test('an error that no retry can mend fails the workflow and stands in its status', async () => {
  await using run = await maintenanceWith(() =>
    Promise.reject(ApplicationFailure.nonRetryable('it makes no sense', 'some_code')),
  );
  await failureOf(run.handle.result());
  const { state, last_error } = await run.status();
  assert.deepEqual({ state, last_error }, { state: 'failed', last_error: 'some_code: it makes no sense' });
});

test('cancelling ends it, after its activity, with what was done', async () => {
  let started = false;
  await using run = await maintenanceWith(async () => {
    started = true;
    await beatUntilCancelled();
    return half;
  });
  await eventually('the activity', () => started);
  await run.handle.cancel();
  assert.ok((await failureOf(run.handle.result())) instanceof CancelledFailure);
  const { state, purged } = await run.status();
  assert.deepEqual({ state, purged }, { state: 'cancelled', purged: half.purged });
});

test('a long history is left for a new run, which goes on from there', async () => {
  const progress: PurgeProgress[] = [];
  await using run = await maintenanceWith(
    async (call) => {
      progress.push(call.progress);
      const published = call.progress.purged.published + 1;
      return published === 6 ? done : { ...half, purged: { ...half.purged, published } };
    },
    [{ dryRun: true, historyLimit: 10 }],
  );
  assert.equal((await run.handle.result()).state, 'done');
  const { runId } = await run.namespace.client.workflow.getHandle('maintenance/test').describe();
  assert.notEqual(runId, run.handle.firstExecutionRunId);
  assert.deepEqual(
    progress.map(({ purged }) => purged.published),
    [0, 1, 2, 3, 4, 5],
  );
  assert.equal((await run.status()).dry_run, true);
});

suite('bad input fails the workflow at once', () => {
  for (const [args, sentence] of [
    [['now'], /takes no input, or an object: got "now"/],
    [[null], /got null/],
    [[{ dryrun: true }], /dryrun is no field: expected dryRun/],
    [[{ dryRun: 'yes' }], /dryRun must be true or false: got "yes"/],
  ] as const) {
    test(JSON.stringify(args), async () => {
      await using run = await maintenanceWith(() => assert.fail('nothing is to be purged'), [...args]);
      const failure = await failureOf(run.handle.result());
      assert.ok(failure instanceof ApplicationFailure && failure.type === 'invalid_input');
      assert.match(failure.message, sentence);
      assert.equal((await run.status()).state, 'failed');
    });
  }
});
