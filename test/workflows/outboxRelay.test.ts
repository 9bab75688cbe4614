import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import { WorkflowFailedError } from '@temporalio/client';
import type { OutboxActivities } from '../../src/activities/outbox.ts';
import { OrchestratorClient } from '../../src/client.ts';
import { type OutboxRelayReport, RELAY_REPORT_SIGNAL } from '../../src/domain/outbox.ts';
import {
  outboxRelay,
  pauseRelaySignal,
  relayReportSignal,
  relayStatusQuery,
  resumeRelaySignal,
} from '../../src/workflows/outbox.ts';
import { eventually } from '../support/eventually.ts';
import { temporalNamespace } from '../support/worker.ts';
import { beatUntilCancelled, runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';
const report = (overrides: Partial<OutboxRelayReport> = {}): OutboxRelayReport => ({
  state: 'idle',
  totals: { delivered: 7, batches: 2 },
  parked: 0,
  lastError: null,
  ...overrides,
});

async function idleUntilCancelled(): Promise<OutboxRelayReport> {
  await beatUntilCancelled();
  return report();
}

/** A relay workflow whose activity is done by `relayOutbox`. */
async function relayWith(
  relayOutbox: OutboxActivities['relayOutbox'],
  args: unknown[] = [],
  workflowId = 'outbox-relay-0',
  endRelay: OutboxActivities['endRelay'] = async () => {},
) {
  const stack = new AsyncDisposableStack();
  const namespace = stack.use(await temporalNamespace());
  stack.use(await runWorkflows(namespace.name, taskQueue, { relayOutbox, endRelay }));
  const handle = await namespace.client.workflow.start(outboxRelay, {
    workflowId,
    taskQueue,
    args: args as [],
  });
  const status = () => namespace.client.workflow.getHandle(workflowId).query(relayStatusQuery);
  const becomes = (state: string) =>
    eventually(`the relay to be ${state}`, async () => (await status()).state === state);
  return { handle, namespace, status, becomes, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

async function failureOf(result: Promise<unknown>): Promise<ApplicationFailure> {
  const error = await result.then(
    () => assert.fail('the workflow did not fail'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure, String(error));
  return error.cause;
}

suite('pause and resume', () => {
  test('ends the activity, keeps the shard at rest, and starts it again', async () => {
    let runs = 0;
    await using relay = await relayWith(async () => {
      runs += 1;
      return idleUntilCancelled();
    });
    await eventually('the first run', () => runs === 1);
    await relay.handle.signal(pauseRelaySignal);
    await relay.becomes('paused');
    assert.equal(runs, 1);
    assert.equal((await relay.status()).delivered_total, 7, 'what the ended activity reported is kept');
    await relay.handle.signal(resumeRelaySignal);
    await relay.becomes('idle');
    await eventually('the second run', () => runs === 2);
    await relay.handle.signal(pauseRelaySignal);
    await relay.becomes('paused');
  });

  test('what lingers after its run has ended when the shard is said to be paused', async () => {
    let isOver = false;
    const ended: number[] = [];
    let letEnd = () => {};
    const asked = new Promise<void>((resolve) => {
      letEnd = resolve;
    });
    await using relay = await relayWith(
      async () => {
        if (isOver) return idleUntilCancelled();
        isOver = true;
        return report();
      },
      [],
      'outbox-relay-0',
      async (shard) => {
        ended.push(shard);
        await asked;
      },
    );
    await eventually('the second run', () => isOver);
    await relay.handle.signal(pauseRelaySignal);
    await eventually('its end to be asked for', () => ended.length === 1);
    assert.notEqual((await relay.status()).state, 'paused');
    letEnd();
    await relay.becomes('paused');
    assert.deepEqual(ended, [0]);
  });

  test('a shard of which nobody can end the relay comes to rest as well', async () => {
    await using relay = await relayWith(idleUntilCancelled, [], 'outbox-relay-0', () =>
      Promise.reject(ApplicationFailure.nonRetryable('Postgres is away', 'postgres_unavailable')),
    );
    await relay.handle.signal(pauseRelaySignal);
    await relay.becomes('paused');
    await relay.handle.signal(resumeRelaySignal);
    await relay.becomes('idle');
  });

  test('a pause during an outage does not wait for its end', async () => {
    await using relay = await relayWith(() => Promise.reject(new Error('Kafka is away')));
    await relay.handle.signal(pauseRelaySignal);
    await relay.becomes('paused');
  });

  test('an activity that fails on its way out does not fail the relay', async () => {
    let runs = 0;
    await using relay = await relayWith(async () => {
      runs += 1;
      if (runs > 1) return idleUntilCancelled();
      await idleUntilCancelled();
      throw new Error('Kafka is away');
    });
    await eventually('the first run', () => runs === 1);
    await relay.handle.signal(pauseRelaySignal);
    await relay.handle.signal(resumeRelaySignal);
    await eventually('the second run', () => runs === 2);
    assert.equal((await relay.handle.describe()).status.name, 'RUNNING');
  });

  test('a paused relay stays paused in its next run, and a late report does not wake it', async () => {
    await using relay = await relayWith(() => idleUntilCancelled(), [{ historyLimit: 5 }]);
    await relay.handle.signal(pauseRelaySignal);
    await relay.becomes('paused');
    await relay.handle.signal(relayReportSignal, report({ state: 'delivering' }));
    await eventually('a new run', async () => {
      const { runId } = await relay.namespace.client.workflow.getHandle('outbox-relay-0').describe();
      return runId !== relay.handle.firstExecutionRunId;
    });
    assert.equal((await relay.status()).state, 'paused');
  });
});

suite('status', () => {
  test('shows what the activity reports, as it goes', async () => {
    await using relay = await relayWith(() => idleUntilCancelled());
    await relay.handle.signal(
      relayReportSignal,
      report({ state: 'waiting', totals: null, lastError: 'kafka_unavailable: x' }),
    );
    await relay.becomes('waiting');
    assert.equal((await relay.status()).last_error, 'kafka_unavailable: x');
    await relay.handle.signal(relayReportSignal, report({ state: 'delivering', parked: 3 }));
    await relay.becomes('delivering');
    const { shard, delivered_total, batches_total, parked, last_error } = await relay.status();
    assert.deepEqual(
      { shard, delivered_total, batches_total, parked, last_error },
      {
        shard: 0,
        delivered_total: 7,
        batches_total: 2,
        parked: 3,
        last_error: null,
      },
    );
  });

  test('is not harmed by reports that make no sense', async () => {
    await using relay = await relayWith(() => idleUntilCancelled());
    for (const nonsense of [
      undefined,
      'x',
      null,
      [],
      {},
      { state: 'asleep' },
      { state: 'idle', totals: 3, parked: 0 },
    ]) {
      await relay.handle.signal(RELAY_REPORT_SIGNAL, nonsense);
    }
    assert.equal((await relay.status()).state, 'idle');
    await relay.handle.signal(pauseRelaySignal);
    await relay.becomes('paused');
  });

  test('survives continue-as-new', async () => {
    await using relay = await relayWith(
      async () => report({ totals: { delivered: 11, batches: 3 } }),
      [{ historyLimit: 20 }],
    );
    await eventually('another run', async () => {
      const { runId } = await relay.namespace.client.workflow.getHandle('outbox-relay-0').describe();
      return runId !== relay.handle.firstExecutionRunId;
    });
    assert.equal((await relay.status()).delivered_total, 11);
  });
});

suite('failures of the activity', () => {
  test('an outage is retried without end', async () => {
    let attempts = 0;
    await using relay = await relayWith(async () => {
      attempts += 1;
      if (attempts < 3) throw ApplicationFailure.create({ type: 'kafka_unavailable', message: 'no broker' });
      return idleUntilCancelled();
    });
    await eventually('the third attempt', () => attempts === 3);
    assert.equal((await relay.handle.describe()).status.name, 'RUNNING');
  });

  test('a contradiction pauses the shard with its reason until a person resumes it', async () => {
    let attempts = 0;
    await using relay = await relayWith(async () => {
      attempts += 1;
      if (attempts === 1) throw ApplicationFailure.nonRetryable('Kafka knows more', 'shard_stopped');
      return idleUntilCancelled();
    });
    await relay.becomes('paused');
    assert.match((await relay.status()).last_error ?? '', /Kafka knows more/);
    assert.equal(attempts, 1);
    await relay.handle.signal(resumeRelaySignal);
    await eventually('the second attempt', () => attempts === 2);
    assert.equal((await relay.status()).last_error, null);
  });

  test('a shard that does not exist fails the workflow', async () => {
    await using relay = await relayWith(() =>
      Promise.reject(ApplicationFailure.nonRetryable('no shard 9', 'unknown_shard')),
    );
    await assert.rejects(relay.handle.result(), WorkflowFailedError);
  });
});

suite('bad input fails the workflow at once', () => {
  for (const [name, workflowId, args, sentence] of [
    ['a workflow id without a shard', 'my-relay', [], /"my-relay" names no shard: expected outbox-relay-0/],
    ['input that is no object', 'outbox-relay-0', ['abc'], /takes no input, or an object: got "abc"/],
    ['input that is a list', 'outbox-relay-0', [[1]], /got \[1\]/],
    ['a history limit that is no number', 'outbox-relay-0', [{ historyLimit: 'x' }], /historyLimit/],
    [
      'a history limit that leaves no room',
      'outbox-relay-0',
      [{ historyLimit: 1 }],
      /historyLimit .* from 5 on/,
    ],
    ['a shard number with leading zeros', 'outbox-relay-007', [], /"outbox-relay-007" names no shard/],
    ['the status of another shard', 'outbox-relay-0', [{ status: { shard: 5, state: 'idle' } }], /status/],
    ['a status that is none', 'outbox-relay-0', [{ status: { state: 'asleep' } }], /status/],
  ] as const) {
    test(name, async () => {
      await using relay = await relayWith(() => idleUntilCancelled(), [...args], workflowId);
      const failure = await failureOf(relay.handle.result());
      assert.equal(failure.type, 'invalid_input');
      assert.match(failure.message, sentence);
    });
  }
});

test('cancelling the workflow ends it, after its activity', async () => {
  let started = false;
  let ended = false;
  await using relay = await relayWith(async () => {
    started = true;
    const last = await idleUntilCancelled();
    ended = true;
    return last;
  });
  await eventually('the activity', () => started);
  await relay.handle.cancel();
  await assert.rejects(
    relay.handle.result(),
    (error: WorkflowFailedError) => error.cause instanceof CancelledFailure,
  );
  assert.equal(ended, true);
});

test('starting a relay that runs already finds it', async () => {
  await using relay = await relayWith(() => idleUntilCancelled());
  const orchestrator = new OrchestratorClient(relay.namespace.client, taskQueue);
  const [one, two] = await Promise.all([orchestrator.startOutboxRelay(0), orchestrator.startOutboxRelay(0)]);
  assert.equal((await one.status()).shard, 0);
  assert.equal((await two.status()).shard, 0);
});
