import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ApplicationFailure } from '@temporalio/activity';
import { WorkflowFailedError } from '@temporalio/client';
import type { UploadBytesActivities } from '../../src/activities/uploadBytes.ts';
import type { AcceptedUpload, UploadActivities } from '../../src/activities/uploads.ts';
import type { UploadRetryInput } from '../../src/domain/uploadInput.ts';
import {
  type TierName,
  tiersAbove,
  type UploadReceipt,
  uploadBytesTaskQueue,
  uploadWorkflowId,
} from '../../src/domain/uploads.ts';
import type { StoredOutcome, TryOutcome } from '../../src/domain/uploadTries.ts';
import { retryUploadSignal, uploadRetry, uploadStatusQuery } from '../../src/workflows/uploads.ts';
import { eventually } from '../support/eventually.ts';
import { temporalNamespace } from '../support/worker.ts';
import { beatUntilCancelled, runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';
const key = 'upload:a file.txt:0123456789abcdef';

const receiptOn = (tier: TierName, attempts = 1): UploadReceipt => ({
  filename: 'a file.txt',
  tier,
  location: `${tier}://x`,
  size: 3,
  sha256: 'f'.repeat(64),
  durability: 'safe',
  attempts,
  stored_at: '2026-11-23T12:00:00.000Z',
  promoted_at: null,
});
const storedOn = (tier: TierName, leftovers: TierName[] = []): StoredOutcome => ({
  kind: 'stored',
  receipt: receiptOn(tier),
  better: tiersAbove(tier, ['s3', 'filesystem', 'redis']),
  leftovers,
});
const away: TryOutcome = { kind: 'away', error: 's3: storage_unavailable: no answer' };
const refused: TryOutcome = { kind: 'refused', error: 's3: storage_refused: forbidden' };
const fresh: AcceptedUpload = {
  filename: 'a file.txt',
  attempts: 0,
  lastError: null,
  receipt: null,
  better: [],
  leftovers: [],
  bytesTaskQueue: uploadBytesTaskQueue(taskQueue),
};

type Activities = UploadActivities & UploadBytesActivities;

/** An upload's workflow whose activities are the test's; those that are not named do nothing. */
async function uploadWith(
  overrides: Partial<Activities>,
  { input = { idempotency_key: key } as unknown, workflowId = uploadWorkflowId(key) } = {},
) {
  const stack = new AsyncDisposableStack();
  const namespace = stack.use(await temporalNamespace());
  const calls: string[] = [];
  const activities: Activities = {
    acceptUpload: async () => fresh,
    // By default nothing is stored at once.
    beginUpload: async (...input) => ({ accepted: await activities.acceptUpload(...input), stored: null }),
    failUpload: async (_, { code, reason }) => void calls.push(`failed ${code}: ${reason}`),
    async cancelUpload() {
      calls.push('cancelled');
      return null;
    },
    storeUpload: async () => storedOn('s3'),
    promoteUpload: async () => storedOn('s3', ['redis']),
    clearLeftovers: async () => void calls.push('cleared'),
    verifyUpload: async () => receiptOn('s3'),
    ...overrides,
  };
  stack.use(await runWorkflows(namespace.name, taskQueue, activities));
  const workflow = await namespace.client.workflow.start(uploadRetry, {
    workflowId,
    taskQueue,
    args: [input as UploadRetryInput],
  });
  // Of the run that is the latest by then.
  const handle = namespace.client.workflow.getHandle<typeof uploadRetry>(workflowId);
  const status = () => handle.query(uploadStatusQuery);
  return {
    workflow,
    handle,
    calls,
    status,
    becomes: (state: string) => eventually(state, async () => (await status()).state === state),
    hurry: () => handle.signal(retryUploadSignal),
    /** What its timers were set to, in seconds. */
    async timers() {
      const { events } = await handle.fetchHistory();
      return (events ?? []).flatMap(({ timerStartedEventAttributes: timer }) =>
        timer ? [Number(timer.startToFireTimeout?.seconds)] : [],
      );
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const failureOf = async (result: Promise<unknown>): Promise<ApplicationFailure> => {
  const error = await result.then(
    () => assert.fail('the workflow succeeded'),
    (error: unknown) => error,
  );
  assert.ok(error instanceof WorkflowFailedError);
  return error.cause as ApplicationFailure;
};

suite('stored', () => {
  test('on the best tier: the receipt is the result', async () => {
    await using upload = await uploadWith({});
    assert.deepEqual(await upload.workflow.result(), receiptOn('s3'));
    const { state, attempts, last_error, receipt } = await upload.status();
    assert.deepEqual([state, attempts, last_error], ['stored', 1, null]);
    assert.deepEqual(receipt, receiptOn('s3'));
    assert.deepEqual(upload.calls, []);
  });

  test('at once: one workflow task is all that it takes', async () => {
    await using upload = await uploadWith({
      beginUpload: async () => ({ accepted: fresh, stored: storedOn('s3') }),
    });
    assert.deepEqual(await upload.workflow.result(), receiptOn('s3'));
    assert.deepEqual((await upload.status()).receipt, receiptOn('s3'));
    const { events } = await upload.handle.fetchHistory();
    const completed = (events ?? []).filter((event) => event.workflowTaskCompletedEventAttributes);
    const scheduled = (events ?? []).filter((event) => event.activityTaskScheduledEventAttributes);
    assert.deepEqual([completed.length, scheduled.length], [1, 0]);
  });

  test('at once on a lower tier: it is promoted as any other', async () => {
    await using upload = await uploadWith({
      beginUpload: async () => ({ accepted: fresh, stored: storedOn('filesystem') }),
    });
    await upload.becomes('promoting');
    await upload.hurry();
    assert.equal((await upload.workflow.result()).tier, 's3');
    assert.deepEqual(upload.calls, ['cleared']);
  });

  test('the long way where that cannot even begin', async () => {
    await using upload = await uploadWith({
      beginUpload: () => Promise.reject(ApplicationFailure.retryable('away', 'postgres_unavailable')),
    });
    assert.deepEqual(await upload.workflow.result(), receiptOn('s3'));
  });

  test('after an outage that spends no attempt: the waits double, and retryNow ends them, for every tier', async () => {
    const rounds: { attempt: number; everyTier: boolean }[] = [];
    await using upload = await uploadWith({
      async storeUpload(round) {
        rounds.push({ attempt: round.attempt, everyTier: round.everyTier });
        return rounds.length < 8 ? away : storedOn('s3');
      },
    });
    for (let round = 1; round < 8; round += 1) {
      await eventually(`round ${round}`, async () => {
        const { state } = await upload.status();
        return rounds.length === round && state === 'waiting' && (await upload.timers()).length === round;
      });
      await upload.hurry();
    }
    assert.equal((await upload.workflow.result()).tier, 's3');
    assert.deepEqual(await upload.timers(), [2, 4, 8, 16, 32, 64, 128]);
    assert.deepEqual(rounds[0], { attempt: 1, everyTier: false });
    assert.deepEqual(
      new Set(rounds.slice(1).map(({ attempt, everyTier }) => `${attempt} ${everyTier}`)),
      new Set(['1 true']),
    );
  });

  test('after the wait by itself', async () => {
    let rounds = 0;
    await using upload = await uploadWith({
      async storeUpload() {
        rounds += 1;
        return rounds === 1 ? away : storedOn('s3');
      },
    });
    await upload.workflow.result();
    assert.equal(rounds, 2);
  });

  test('on a lower tier it is promoted, and what is below is cleared; until then it is seen where it is', async () => {
    let looks = 0;
    await using upload = await uploadWith({
      storeUpload: async () => storedOn('redis'),
      async promoteUpload() {
        looks += 1;
        if (looks === 1) return away;
        const tier = looks === 2 ? 'filesystem' : 's3';
        return { ...storedOn(tier, ['redis']), receipt: { ...receiptOn(tier), promoted_at: '2026' } };
      },
    });
    await upload.becomes('promoting');
    assert.equal((await upload.status()).receipt?.tier, 'redis');
    for (let look = 1; look <= 3; look += 1) {
      await eventually(`timer ${look}`, async () => (await upload.timers()).length === look);
      await upload.hurry();
      await eventually(`look ${look}`, () => looks === look);
      if (look === 1)
        await eventually('why not', async () => (await upload.status()).last_error === away.error);
    }
    assert.equal((await upload.workflow.result()).tier, 's3');
    assert.equal((await upload.status()).state, 'promoted');
    assert.deepEqual(await upload.timers(), [60, 120, 60]);
    assert.deepEqual(upload.calls, ['cleared', 'cleared']);
  });

  test('a copy below that cannot be removed does not take the success away', async () => {
    await using upload = await uploadWith({
      storeUpload: async () => storedOn('s3', ['redis']),
      clearLeftovers: () => Promise.reject(ApplicationFailure.nonRetryable('forbidden', 'storage_refused')),
    });
    assert.equal((await upload.workflow.result()).tier, 's3');
    assert.equal((await upload.status()).last_error, 'storage_refused: forbidden');
  });

  test('asked for again it is told the first receipt, after a look at the copy', async () => {
    let looks = 0;
    await using upload = await uploadWith({
      acceptUpload: async () => ({ ...fresh, receipt: receiptOn('s3', 2) }),
      storeUpload: () => assert.fail('it is stored already'),
      async verifyUpload() {
        looks += 1;
        return receiptOn('s3');
      },
    });
    assert.deepEqual(await upload.workflow.result(), receiptOn('s3', 2));
    assert.equal(looks, 1);
  });

  test('asked for again when the copy is gone: it fails and says so; when nobody can look the receipt holds', async () => {
    const stored = { acceptUpload: async () => ({ ...fresh, receipt: receiptOn('s3') }) };
    const looking = (type: string) => ({
      ...stored,
      verifyUpload: () => Promise.reject(ApplicationFailure.nonRetryable('what it says', type)),
    });
    await using gone = await uploadWith(looking('upload_corrupt'));
    const { type, message } = await failureOf(gone.workflow.result());
    assert.deepEqual([type, message], ['upload_corrupt', 'what it says']);
    for (const code of ['storage_unavailable', 'storage_refused', 'postgres_unavailable']) {
      await using silent = await uploadWith(looking(code));
      assert.equal((await silent.workflow.result()).tier, 's3', code);
    }
  });

  test('with many waits behind it a new run goes on where the old one was', async () => {
    let rounds = 0;
    await using upload = await uploadWith(
      {
        async storeUpload() {
          rounds += 1;
          return rounds < 3 ? away : storedOn('s3');
        },
      },
      { input: { idempotency_key: key, waitLimit: 1 } },
    );
    await eventually('the wait of the second run', async () => {
      const [seconds, ...more] = await upload.timers();
      return rounds === 2 && seconds === 4 && more.length === 0;
    });
    assert.equal((await upload.status()).last_error, 's3: storage_unavailable: no answer');
    await upload.hurry();
    assert.equal((await upload.workflow.result()).tier, 's3');
    const { events } = await upload.handle.fetchHistory();
    const started = events![0]!.workflowExecutionStartedEventAttributes!;
    assert.ok(started.continuedExecutionRunId);
  });
});

suite('given up', () => {
  test('when every tier has refused it five times; outages in between do not count', async () => {
    const attempts: number[] = [];
    await using upload = await uploadWith({
      async storeUpload({ attempt }) {
        attempts.push(attempt);
        return attempts.length % 2 === 1 ? away : refused;
      },
    });
    const driving = (async () => {
      while (attempts.length < 10) {
        await upload.hurry().catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    })();
    const failure = await failureOf(upload.workflow.result());
    await driving;
    assert.deepEqual([failure.type, failure.nonRetryable], ['storage_refused', true]);
    assert.deepEqual(attempts, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    const { state, attempts: spent, last_error, receipt } = await upload.status();
    assert.deepEqual([state, spent, receipt], ['failed', 5, null]);
    assert.equal(last_error, 'storage_refused: s3: storage_refused: forbidden');
    assert.deepEqual(upload.calls, ['failed storage_refused: s3: storage_refused: forbidden']);
  });

  test('no sooner than after a quarter of an hour, unless somebody is in a hurry', async () => {
    await using upload = await uploadWith({ storeUpload: async () => refused });
    for (let wait = 1; wait <= 4; wait += 1) {
      await eventually(`wait ${wait}`, async () => (await upload.timers()).length === wait);
      await upload.hurry();
    }
    assert.equal((await failureOf(upload.workflow.result())).type, 'storage_refused');
    assert.deepEqual(await upload.timers(), [60, 120, 240, 480]);
  });

  test('at once when nobody could store it', async () => {
    await using upload = await uploadWith({
      storeUpload: () => Promise.reject(ApplicationFailure.nonRetryable('no such file', 'upload_refused')),
    });
    const failure = await failureOf(upload.workflow.result());
    assert.deepEqual([failure.type, failure.message], ['upload_refused', 'no such file']);
    assert.deepEqual(upload.calls, ['failed upload_refused: no such file']);
  });

  test('without a letter when it was never accepted', async () => {
    await using upload = await uploadWith({
      acceptUpload: () => Promise.reject(ApplicationFailure.nonRetryable('not allowed', 'upload_refused')),
    });
    assert.equal((await failureOf(upload.workflow.result())).message, 'not allowed');
    assert.equal((await upload.status()).state, 'failed');
    assert.deepEqual(upload.calls, []);
  });
});

suite('cancelled', () => {
  const isCancelled = async (result: Promise<unknown>) => {
    const cause = await failureOf(result);
    assert.equal(cause.name, 'CancelledFailure');
  };

  test('while it waits: it is not stored, and says so', async () => {
    await using upload = await uploadWith({ storeUpload: async () => away });
    await upload.becomes('waiting');
    await eventually('the wait', async () => (await upload.timers()).length > 0);
    await upload.workflow.cancel();
    await isCancelled(upload.workflow.result());
    const { state, last_error } = await upload.status();
    assert.deepEqual([state, last_error], ['failed', 'cancelled before it was stored; its bytes are kept']);
    assert.deepEqual(upload.calls, ['cancelled']);
  });

  test('while it is tried: the try ends first', async () => {
    let ended = false;
    await using upload = await uploadWith({
      async storeUpload() {
        await beatUntilCancelled();
        ended = true;
        return away;
      },
      async cancelUpload() {
        assert.ok(ended, 'a try is under way');
        return null;
      },
    });
    await upload.becomes('trying');
    await upload.workflow.cancel();
    await isCancelled(upload.workflow.result());
    assert.ok(ended);
  });

  test('while a try succeeds on the best tier: it is stored', async () => {
    await using upload = await uploadWith({
      async storeUpload() {
        await beatUntilCancelled();
        return storedOn('s3');
      },
    });
    await upload.becomes('trying');
    await upload.workflow.cancel();
    assert.equal((await upload.workflow.result()).tier, 's3');
  });

  test('while it waits for a better tier: it stays where it is', async () => {
    await using upload = await uploadWith({
      storeUpload: async () => storedOn('redis'),
      cancelUpload: async () => receiptOn('redis'),
    });
    await upload.becomes('promoting');
    await eventually('the wait', async () => (await upload.timers()).length > 0);
    await upload.workflow.cancel();
    await isCancelled(upload.workflow.result());
    const { state, receipt } = await upload.status();
    assert.deepEqual([state, receipt?.tier], ['stored', 'redis']);
  });
});

suite('bad input', () => {
  const table: [name: string, input: unknown, expected: RegExp, workflowId?: string][] = [
    ['nothing', null, /takes the payload of upload\.retry/],
    ['another workflow id', { idempotency_key: key }, /the workflow id of an upload is upload\//, 'mine'],
    ['bytes', { filename: 'a', size: 3, data_b64: 'AQID' }, /data_b64 would stay in Temporal's history/],
    ['several faults', { filename: 7, size: -1, data_ref: 'spool:x' }, /filename must.*size must/],
    ['another key', { idempotency_key: 'x' }, /must be that of the workflow id/],
  ];
  for (const [name, input, expected, workflowId] of table) {
    test(`fails at once and says why: ${name}`, async () => {
      await using upload = await uploadWith({}, { input, ...(workflowId ? { workflowId } : {}) });
      const failure = await failureOf(upload.workflow.result());
      assert.deepEqual([failure.type, failure.nonRetryable], ['invalid_input', true]);
      assert.match(failure.message, expected);
    });
  }
});
