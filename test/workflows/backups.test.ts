import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import { WorkflowFailedError } from '@temporalio/client';
import type { EndedBackup, MadeBackup } from '../../src/activities/backups.ts';
import type { BegunBackup } from '../../src/database/backups.ts';
import type { DrillRecord } from '../../src/database/restoreDrills.ts';
import {
  type BackupStatus,
  type BackupTask,
  type CataloguedBackup,
  type DrillEvidence,
  manifestOf,
} from '../../src/domain/backups.ts';
import { backup, backupStatusQuery } from '../../src/workflows/backups.ts';
import { drillStatusQuery, restoreDrill } from '../../src/workflows/restoreDrills.ts';
import { eventually } from '../support/eventually.ts';
import { temporalNamespace } from '../support/worker.ts';
import { beatUntilCancelled, runWorkflows } from '../support/workflows.ts';

const task: BackupTask = { type: 'database', source: 'core' };
const made: MadeBackup = {
  address: { type: 'database', source: 'core', id: 'b-1' },
  content: {
    files: [{ name: 'data', size: 70, sha256: 'aa', plainSize: 100, plainSha256: 'bb' }],
    versions: {},
    rows: { 'public.a': 3 },
    notes: [],
    compression: 'zstd',
    recipients: [],
  },
};
const begun: BegunBackup = {
  id: '20260131t120000z-00000000',
  idempotency_key: 'key',
  type: 'database',
  source: 'core',
  destination: 'file:///backups',
  metadata: {},
  started_at: '2026-01-31T12:00:00.000Z',
  lastGoodSize: 90,
  manifest: null,
};
const manifest = manifestOf(begun, made.content, '2026-01-31T12:01:00.000Z');

/** The workflow `backup/key` with activities that do as told, and a record of what was called. */
async function backupWith(
  steered: Record<string, (...input: never[]) => unknown> = {},
  args: unknown[] = [task],
) {
  const stack = new AsyncDisposableStack();
  const namespace = stack.use(await temporalNamespace());
  const calls: string[] = [];
  const ended: EndedBackup[] = [];
  const standard = {
    beginBackup: () => begun,
    makeBackup: () => made,
    commitBackup: () => manifest,
    applyRetention: () => ({ kept: 4, removed: ['old'] }),
    endBackup: (_: BackupTask, __: BegunBackup | null, how: EndedBackup) => void ended.push(how),
  };
  const activities = Object.fromEntries(
    Object.entries({ ...standard, ...steered }).map(([name, act]) => [
      name,
      async (...input: never[]) => {
        calls.push(name);
        return (act as (...input: never[]) => unknown)(...input);
      },
    ]),
  );
  stack.use(await runWorkflows(namespace.name, 'test', activities));
  const handle = await namespace.client.workflow.start(backup, {
    workflowId: 'backup/key',
    taskQueue: 'test',
    args: args as [BackupTask],
  });
  return {
    calls,
    ended,
    handle,
    status: () => handle.query(backupStatusQuery),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

async function failureOf(result: Promise<unknown>): Promise<Error | undefined> {
  const error = await result.then(
    () => assert.fail('the workflow did not fail'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof WorkflowFailedError, String(error));
  return error.cause;
}

function hold() {
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  return { held, release };
}

const fails =
  (type: string, nonRetryable = false) =>
  () => {
    throw ApplicationFailure.create({ type, message: 'no', nonRetryable });
  };

test('first made, then committed, then retention; the status says so', async () => {
  await using run = await backupWith();
  const { since, ...status } = await run.handle.result();
  assert.ok(Date.parse(since) > 0);
  assert.deepEqual(run.calls, ['beginBackup', 'makeBackup', 'commitBackup', 'applyRetention']);
  assert.deepEqual(status, {
    state: 'verified',
    id: begun.id,
    type: 'database',
    source: 'core',
    destination: 'file:///backups',
    attempts: 1,
    progress: null,
    last_error: null,
    manifest,
    retention: { kept: 4, removed: ['old'], last_error: null },
  });
  assert.deepEqual(await run.status(), { since, ...status });
});

test('a key that has its backup already gives that one, and nothing is made or removed', async () => {
  await using run = await backupWith({ beginBackup: () => ({ ...begun, manifest }) });
  const { state, manifest: found } = await run.handle.result();
  assert.deepEqual([state, found], ['verified', manifest]);
  assert.deepEqual(run.calls, ['beginBackup']);
});

test('while S3 is away it waits where it takes no slot, and its state says so; a cancel ends that', async () => {
  const inS3 = { ...begun, destination: 's3://bucket/backups' };
  const steered = (away: () => boolean) => ({
    beginBackup: () => inS3,
    untilWorthTrying() {
      if (away())
        throw ApplicationFailure.create({ type: 'backup_failed', message: 'no', nextRetryDelay: '50ms' });
    },
  });
  let isAway = true;
  await using run = await backupWith(steered(() => isAway));
  await eventually(
    'three questions',
    () => run.calls.filter((name) => name === 'untilWorthTrying').length > 2,
  );
  const { attempts, progress } = await run.status();
  assert.deepEqual([attempts, progress?.stage, run.calls.includes('makeBackup')], [0, 'waiting', false]);
  isAway = false;
  assert.deepEqual([(await run.handle.result()).state, (await run.status()).attempts], ['verified', 1]);

  await using other = await backupWith(steered(() => true));
  await eventually('a question', () => other.calls.includes('untilWorthTrying'));
  await other.handle.cancel();
  assert.ok((await failureOf(other.handle.result())) instanceof CancelledFailure);
});

test('a try that failed is told, and another one is made', async () => {
  let tries = 0;
  await using run = await backupWith({
    makeBackup() {
      tries += 1;
      if (tries === 1) fails('backup_failed')();
      return made;
    },
  });
  await eventually('the error', async () => (await run.status()).last_error === 'backup_failed: no');
  const { state, attempts, last_error } = await run.handle.result();
  assert.deepEqual({ state, attempts, last_error }, { state: 'verified', attempts: 2, last_error: null });
});

test('an outage at any step is told while it lasts, and outlasted', async () => {
  let away = 'beginBackup';
  const unlessAway = (step: string, result: unknown) => () =>
    away === step ? fails('storage_unavailable')() : result;
  await using run = await backupWith({
    beginBackup: unlessAway('beginBackup', begun),
    commitBackup: unlessAway('commitBackup', manifest),
    applyRetention: unlessAway('applyRetention', { kept: 4, removed: [] }),
  });
  const told = (what: string, of: (status: BackupStatus) => string | null | undefined) =>
    eventually(what, async () => of(await run.status()) === 'storage_unavailable: no');
  await told('the beginning', ({ last_error }) => last_error);
  away = 'commitBackup';
  await told('the commit', ({ state, last_error }) => (state === 'verifying' ? last_error : null));
  away = 'applyRetention';
  await told('retention', ({ state, retention }) => (state === 'verified' ? retention?.last_error : null));
  away = 'nothing';
  const { last_error, retention } = await run.handle.result();
  assert.deepEqual([last_error, retention], [null, { kept: 4, removed: [], last_error: null }]);
});

test('while its end cannot be written, both errors are told', async () => {
  let isAway = true;
  await using run = await backupWith({
    makeBackup: fails('backup_refused', true),
    endBackup: () => (isAway ? fails('postgres_unavailable')() : undefined),
  });
  const both = 'backup_refused: no; its end cannot be written yet: postgres_unavailable: no';
  await eventually('both', async () => (await run.status()).last_error === both);
  isAway = false;
  await failureOf(run.handle.result());
  assert.equal((await run.status()).last_error, 'backup_refused: no');
});

test('workers that stop spend no try, however many', async () => {
  let tries = 0;
  await using run = await backupWith({
    makeBackup() {
      tries += 1;
      if (tries <= 12) fails('worker_stopped')();
      return made;
    },
  });
  assert.deepEqual([(await run.handle.result()).state, tries], ['verified', 13]);
});

test('a worker that falls silent: another one begins again', async () => {
  let tries = 0;
  const { held, release } = hold();
  await using run = await backupWith({
    async makeBackup() {
      tries += 1;
      if (tries === 1) await held;
      return made;
    },
  });
  assert.deepEqual([(await run.handle.result()).state, tries], ['verified', 2]);
  release();
});

for (const [step, calls] of [
  ['beginBackup', ['beginBackup', 'endBackup']],
  ['makeBackup', ['beginBackup', 'makeBackup', 'endBackup']],
  ['commitBackup', ['beginBackup', 'makeBackup', 'commitBackup', 'endBackup']],
] as const)
  test(`a definite no of ${step} ends it at once: cleared away, told, and without retention`, async () => {
    await using run = await backupWith({ [step]: fails('backup_refused', true) });
    await failureOf(run.handle.result());
    assert.deepEqual(run.calls, calls);
    assert.deepEqual(run.ended, [{ state: 'failed', error: 'backup_refused: no' }]);
    const { state, last_error, manifest: none } = await run.status();
    assert.deepEqual([state, last_error, none], ['failed', 'backup_refused: no', null]);
  });

test('retention that has no end is given up after an hour: it would hold back the next backup', async () => {
  let tries = 0;
  await using run = await backupWith({
    applyRetention() {
      tries += 1;
      if (tries < 2) fails('backup_failed')();
      return { kept: 1, removed: [] };
    },
  });
  assert.equal((await run.handle.result()).retention?.last_error, null);
  const { events } = await run.handle.fetchHistory();
  const timers = events!.flatMap(({ timerStartedEventAttributes: timer }) =>
    timer ? Number(timer.startToFireTimeout?.seconds) : [],
  );
  assert.deepEqual(timers, [3_600, 1], 'one for all of it, one for the wait between two tries');
});

test('where retention fails the backup is good all the same', async () => {
  await using run = await backupWith({ applyRetention: fails('backup_refused', true) });
  const { state, retention } = await run.handle.result();
  assert.deepEqual([state, retention?.last_error], ['verified', 'backup_refused: no']);
});

test('cancelled while it is made: the activity ends, what it left is cleared away', async () => {
  let started = false;
  await using run = await backupWith({
    async makeBackup() {
      started = true;
      await beatUntilCancelled();
      throw new CancelledFailure('cancelled');
    },
  });
  await eventually('the activity', () => started);
  await run.handle.cancel();
  assert.ok((await failureOf(run.handle.result())) instanceof CancelledFailure);
  assert.deepEqual(run.calls, ['beginBackup', 'makeBackup', 'endBackup']);
  assert.deepEqual(run.ended, [{ state: 'cancelled', error: null }]);
  assert.equal((await run.status()).state, 'cancelled');
});

test('cancelled while it is committed: it is too late, the backup exists', async () => {
  const { held, release } = hold();
  await using run = await backupWith({ commitBackup: () => held.then(() => manifest) });
  await eventually('the commit', () => run.calls.includes('commitBackup'));
  await run.handle.cancel();
  release();
  await run.handle.result().catch(() => {});
  assert.deepEqual(run.calls, ['beginBackup', 'makeBackup', 'commitBackup', 'applyRetention']);
  assert.equal((await run.status()).state, 'verified');
});

test('progress is in the status, with the stage; nonsense is not', async () => {
  const { held, release } = hold();
  await using run = await backupWith({ makeBackup: () => held.then(() => made) });
  await eventually('the activity', () => run.calls.includes('makeBackup'));
  for (const nonsense of [null, 'x', { stage: 'sleeping', bytes: 1 }, { stage: 'reading', bytes: 'many' }])
    await run.handle.signal('progress', nonsense);
  await run.handle.signal('progress', { stage: 'reading', bytes: 42 });
  const reading = await eventually('progress', async () => {
    const status = await run.status();
    return status.progress && status;
  });
  assert.deepEqual(
    [reading.state, reading.progress],
    ['running', { stage: 'reading', bytes: 42, of_about: 90 }],
  );
  await run.handle.signal('progress', { stage: 'verifying', bytes: 7 });
  await eventually('verifying', async () => (await run.status()).state === 'verifying');
  release();
  assert.equal((await run.handle.result()).state, 'verified');
});

suite('bad input fails the workflow at once', () => {
  for (const [args, sentence] of [
    [[], /takes an object {type, source}/],
    [[{}], /type must be one of database, files, redis and storage: got nothing; source must be/],
    [[{ ...task, type: 'tape' }], /type must be one of/],
    [[{ ...task, source: 'a\nb' }], /without control characters/],
    [[{ ...task, destination: 's3://key:secret@bucket/x' }], /destination must be .*: got \(hidden/],
    [[{ ...task, destinaton: 'file:///x' }], /destinaton is no field/],
  ] as const)
    test(JSON.stringify(args), async () => {
      await using run = await backupWith({}, [...args]);
      const failure = await failureOf(run.handle.result());
      assert.ok(failure instanceof ApplicationFailure && failure.type === 'invalid_input', String(failure));
      assert.match(failure.message, sentence);
      assert.doesNotMatch(failure.message, /secret/);
      assert.deepEqual([run.calls, (await run.status()).state], [[], 'failed']);
    });
});

const chosen: CataloguedBackup = {
  id: begun.id,
  type: 'database',
  source: 'core',
  destination: begun.destination,
  address: made.address,
  content: made.content,
};
const evidence: DrillEvidence = { compared: 1, found: 3, differences: [], checks: [], seconds: 2 };

async function drillWith(steered: Record<string, (...input: never[]) => unknown> = {}, args: unknown[] = []) {
  const stack = new AsyncDisposableStack();
  const namespace = stack.use(await temporalNamespace());
  const records: DrillRecord[] = [];
  const activities = {
    chooseBackup: async () => chosen,
    drillBackup: async () => evidence,
    recordDrill: async (record: DrillRecord) => void records.push(record),
    ...steered,
  };
  stack.use(await runWorkflows(namespace.name, 'test', activities));
  const handle = await namespace.client.workflow.start(restoreDrill, {
    workflowId: 'restore-drill/test',
    taskQueue: 'test',
    args: args as [],
  });
  return {
    records,
    handle,
    status: () => handle.query(drillStatusQuery),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

suite('a drill', () => {
  test('that passes keeps its evidence', async () => {
    await using run = await drillWith();
    const { state, backup: id, evidence: found } = await run.handle.result();
    assert.deepEqual([state, id, found], ['passed', begun.id, evidence]);
    assert.deepEqual(
      run.records.map(({ passed, backup: of, error }) => [passed, of, error]),
      [[true, begun.id, null]],
    );
  });

  test('that finds a difference fails, after that is kept and told', async () => {
    const differences = ['public.a: 3 backed up, 2 restored'];
    await using run = await drillWith({ drillBackup: () => Promise.resolve({ ...evidence, differences }) });
    const failure = await failureOf(run.handle.result());
    assert.ok(failure instanceof ApplicationFailure && failure.type === 'drill_failed');
    assert.equal(failure.message, differences[0]);
    assert.deepEqual(
      run.records.map(({ passed, evidence: kept, error }) => [passed, kept?.differences, error]),
      [[false, differences, `drill_failed: ${differences[0]}`]],
    );
    assert.equal((await run.status()).state, 'failed');
  });

  test('of which a check does not pass fails as well', async () => {
    const checks = [
      { name: 'tenants', passed: true, error: null },
      { name: 'orders', passed: false, error: 'gives false: expected true' },
    ];
    await using run = await drillWith({ drillBackup: () => Promise.resolve({ ...evidence, checks }) });
    await failureOf(run.handle.result());
    assert.deepEqual(
      run.records.map(({ passed, evidence: kept, error }) => [passed, kept?.checks, error]),
      [[false, checks, 'drill_failed: the check orders gives false: expected true']],
    );
  });

  test('without any backup fails and is kept as well', async () => {
    await using run = await drillWith({ chooseBackup: async () => fails('drill_failed', true)() });
    await failureOf(run.handle.result());
    assert.deepEqual(
      run.records.map(({ passed, backup: of, type, source, error }) => [passed, of, type, source, error]),
      [[false, null, 'database', null, 'drill_failed: no']],
      'of what it asked for, so that whoever looks at that sees it',
    );
    await using of = await drillWith({ chooseBackup: async () => fails('drill_failed', true)() }, [
      { source: 'cache', type: 'redis' },
    ]);
    await failureOf(of.handle.result());
    assert.deepEqual([of.records[0]?.type, of.records[0]?.source], ['redis', 'cache']);
  });

  test('outlasts an outage of Postgres, and tells of it', async () => {
    let away = 'chooseBackup';
    const records: DrillRecord[] = [];
    await using run = await drillWith({
      chooseBackup: async () => (away === 'chooseBackup' ? fails('postgres_unavailable')() : chosen),
      recordDrill: async (record: DrillRecord) =>
        away === 'recordDrill' ? fails('postgres_unavailable')() : void records.push(record),
    });
    const told = (last_error: string) =>
      eventually(last_error, async () => (await run.status()).last_error === last_error);
    await told('postgres_unavailable: no');
    away = 'recordDrill';
    await told('passed; the evidence cannot be kept yet: postgres_unavailable: no');
    away = 'nothing';
    const { state, last_error } = await run.handle.result();
    assert.deepEqual([state, last_error], ['passed', null]);
    assert.deepEqual(
      records.map(({ passed, error }) => [passed, error]),
      [[true, null]],
    );
  });

  test('with bad input fails at once and leaves no trace', async () => {
    await using run = await drillWith({}, [{ bakup: 'x' }]);
    const failure = await failureOf(run.handle.result());
    assert.match(String(failure?.message), /bakup is no field/);
    assert.deepEqual(run.records, []);
  });
});
