import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { WorkflowFailedError } from '@temporalio/client';
import { createOutboxDeliveryActivities } from '../../src/activities/outboxDelivery.ts';
import { OrchestratorClient } from '../../src/client.ts';
import { openPool } from '../../src/database/postgres.ts';
import { outboxDeliveryWorkflowId } from '../../src/domain/outboxDelivery.ts';
import { outboxDelivery } from '../../src/workflows/outboxDelivery.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { insertRows } from '../support/outbox.ts';
import { refuse } from '../support/parked.ts';
import { temporalNamespace } from '../support/worker.ts';
import { runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';

interface Parked {
  attempts?: number;
  maxAttempts?: number;
  /** To the next attempt. */
  seconds?: number;
}

/** The workflow and its activities on a row of its own. The relay is played by the test: only the test marks rows. */
async function rig({ attempts = 1, maxAttempts = 5, seconds = 3_600 }: Parked = {}) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const { client } = database;
  const [id] = (await insertRows(client, [{ topic: 'refused', key: 'k' }])) as [string];
  const set = (assignments: string) =>
    client.query(`UPDATE core_outboxmessage SET ${assignments} WHERE id = $1`, [id]);
  const pool = openPool(database.url);
  stack.defer(() => pool.end());
  const namespace = stack.use(await temporalNamespace());
  const real = createOutboxDeliveryActivities({
    stop: new AbortController().signal,
    pool,
    temporal: namespace.client,
  });
  /** What happens right before the next attempt is looked at. */
  const hooks = { beforeDelivery: async () => {}, hurries: 0 };
  const activities = {
    ...real,
    async hurryMessage(message: string) {
      await real.hurryMessage(message);
      hooks.hurries += 1;
    },
    async deliverMessage(...[message, options]: Parameters<typeof real.deliverMessage>) {
      await hooks.beforeDelivery();
      return real.deliverMessage(message, options);
    },
  };
  stack.use(await runWorkflows(namespace.name, taskQueue, activities));
  await set(
    `status = 'failed', attempts = ${attempts}, max_attempts = ${maxAttempts}, last_error = 'invalid_record: x',
     next_retry_at = now() + interval '${seconds} seconds'`,
  );
  const workflow = await namespace.client.workflow.start(outboxDelivery, {
    workflowId: outboxDeliveryWorkflowId(id),
    taskQueue,
    args: [id],
  });
  const delivery = new OrchestratorClient(namespace.client, taskQueue).outboxDelivery(id);
  return {
    id,
    client,
    set,
    namespace,
    workflow,
    delivery,
    hooks,
    is: (status: string) =>
      eventually(`the row to be ${status}`, async () => {
        const { rows } = await client.query('SELECT status FROM core_outboxmessage WHERE id = $1', [id]);
        return rows[0].status === status;
      }),
    /** The relay is asked for the attempt, and puts the row back among the pending. */
    take: (withinMs = 60_000) =>
      eventually(
        'the attempt to be asked for',
        async () => {
          const { rowCount } = await client.query(
            `UPDATE core_outboxmessage SET status = 'pending' WHERE id = $1 AND status = 'failed' AND next_retry_at IS NULL`,
            [id],
          );
          return rowCount === 1;
        },
        { withinMs },
      ),
    says: (state: string, attempts: number) =>
      eventually(`${state} after attempt ${attempts}`, async () => {
        const status = await delivery.status();
        return status.state === state && status.attempts === attempts ? status : undefined;
      }),
    attemptInTemporal: async () => {
      const { raw } = await workflow.describe();
      return raw.pendingActivities?.[0]?.attempt;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test("Temporal's attempts are the row's, and the last refusal ends the workflow", async () => {
  await using rigged = await rig({ maxAttempts: 3, seconds: 5 });
  const { id, client, delivery } = rigged;
  for (const attempt of [1, 2]) {
    const waiting = await rigged.says('waiting', attempt);
    const { rows } = await client.query('SELECT * FROM core_outboxmessage WHERE id = $1', [id]);
    assert.deepEqual(waiting, {
      state: 'waiting',
      message_id: id,
      topic: 'refused',
      key: 'k',
      attempts: attempt,
      max_attempts: 3,
      last_error: rows[0].last_error,
      next_retry_at: rows[0].next_retry_at.toISOString(),
      discarding: false,
    });
    await eventually('the next attempt', async () => (await rigged.attemptInTemporal()) === attempt + 1);
    await rigged.take();
    await rigged.says('trying', attempt);
    assert.equal(await refuse(client, [id]), attempt === 2 ? 1 : 0);
  }
  const { state, attempts, last_error, next_retry_at } = await delivery.result();
  assert.deepEqual(
    { state, attempts, last_error, next_retry_at },
    { state: 'dead', attempts: 3, last_error: 'invalid_record: refused by a test', next_retry_at: null },
  );
});

test('An outage is no attempt: the workflow waits for the relay however long it takes', async () => {
  await using rigged = await rig({ maxAttempts: 2, seconds: 0 });
  await rigged.take();
  await rigged.says('trying', 1);
  const attempt = await rigged.attemptInTemporal();
  // Longer than the retry policy would wait, and the activity is still the same attempt.
  await delay(4_000);
  assert.equal(await rigged.attemptInTemporal(), attempt);
  await rigged.set(`status = 'published', published_at = now()`);
  assert.equal((await rigged.delivery.result()).state, 'delivered');
});

test('retryNow makes the next attempt at once, and after it the usual wait begins', async () => {
  await using rigged = await rig();
  await rigged.says('waiting', 1);
  await rigged.delivery.retryNow();
  await rigged.take();
  await rigged.says('trying', 1);
  await rigged.delivery.retryNow();
  // Under way, there is nothing to hurry; heard only after the refusal, it would hurry the next attempt.
  await eventually('the second retryNow to be heard', () => rigged.hooks.hurries === 2);
  await refuse(rigged.client, [rigged.id]);
  const { next_retry_at } = await rigged.says('waiting', 2);
  const wait = (Date.parse(next_retry_at!) - Date.now()) / 1000;
  assert.ok(wait > 1 && wait <= 4, `next attempt in ${wait} s`);
  await rigged.take();
  await rigged.set(`status = 'published', published_at = now()`);
  assert.equal((await rigged.delivery.result()).state, 'delivered');
});

test('A worker that dies in the last attempt: the workflow goes on by what the row says', async () => {
  await using rigged = await rig({ maxAttempts: 2 });
  await rigged.says('waiting', 1);
  let attempts = 0;
  rigged.hooks.beforeDelivery = async () => {
    attempts += 1;
    if (attempts === 1) throw new Error('Postgres is away');
    // Longer than the heartbeat timeout, in the last attempt that Temporal was to make.
    if (attempts === 2) await delay(32_000);
  };
  await rigged.delivery.retryNow();
  await rigged.take(120_000);
  await rigged.set(`status = 'published', published_at = now()`);
  assert.equal((await rigged.delivery.result()).state, 'delivered');
});

suite('discard', () => {
  test('gives up a waiting message at once', async () => {
    await using rigged = await rig();
    await rigged.says('waiting', 1);
    await rigged.delivery.discard();
    const { state, attempts, discarding } = await rigged.delivery.result();
    assert.deepEqual({ state, attempts, discarding }, { state: 'dead', attempts: 1, discarding: true });
    await rigged.is('dead');
  });

  test('sent right after the start it is not missed', async () => {
    await using rigged = await rig();
    await rigged.delivery.discard();
    assert.equal((await rigged.delivery.result()).state, 'dead');
  });

  for (const outcome of ['published', 'failed'] as const) {
    test(`waits for the attempt under way: ${outcome}`, async () => {
      await using rigged = await rig({ seconds: 0 });
      await rigged.take();
      await rigged.delivery.discard();
      await eventually('the wish', async () => (await rigged.delivery.status()).discarding);
      await rigged.says('trying', 1);
      if (outcome === 'published') await rigged.set(`status = 'published', published_at = now()`);
      else await refuse(rigged.client, [rigged.id]);
      const { state, attempts } = await rigged.delivery.result();
      assert.deepEqual(
        { state, attempts },
        outcome === 'published' ? { state: 'delivered', attempts: 1 } : { state: 'dead', attempts: 2 },
      );
      const { rows } = await rigged.client.query('SELECT error_type FROM core_deadlettermessage');
      assert.deepEqual(rows, outcome === 'published' ? [] : [{ error_type: 'discarded' }]);
    });
  }

  test('makes no further attempt, even if the one under way has failed and the next is due when it looks', async () => {
    await using rigged = await rig({ seconds: 0 });
    await rigged.take();
    await rigged.says('trying', 1);
    rigged.hooks.beforeDelivery = async () => {
      await rigged.set(`status = 'failed', attempts = 2, next_retry_at = now()`);
    };
    await rigged.delivery.discard();
    assert.equal((await rigged.delivery.result()).state, 'dead');
  });
});

suite('what people do to rows by SQL', () => {
  test('a deleted row ends the workflow', async () => {
    await using rigged = await rig({ seconds: 2 });
    await rigged.says('waiting', 1);
    await rigged.client.query('DELETE FROM core_outboxmessage');
    assert.equal((await rigged.delivery.result()).state, 'gone');
  });

  test('fewer max_attempts than it has had', async () => {
    await using rigged = await rig({ attempts: 6, maxAttempts: 3, seconds: 2 });
    await rigged.says('waiting', 6);
    await rigged.take();
    await rigged.set(`status = 'published', published_at = now()`);
    assert.equal((await rigged.delivery.result()).state, 'delivered');
  });

  test('no attempt in the books, and as many allowed as an integer can hold', async () => {
    await using rigged = await rig({ attempts: 0, maxAttempts: 2_147_483_647, seconds: 1 });
    await rigged.says('waiting', 0);
    await rigged.take();
    await rigged.set(`status = 'published', published_at = now()`);
    assert.equal((await rigged.delivery.result()).state, 'delivered');
  });

  test('parked for ever', async () => {
    await using rigged = await rig();
    await rigged.says('waiting', 1);
    await rigged.set(`next_retry_at = 'infinity'`);
    await rigged.delivery.retryNow();
    await rigged.take();
    await rigged.set(`status = 'published', published_at = now()`);
    assert.equal((await rigged.delivery.result()).state, 'delivered');
  });

  test('published by hand, it is settled when its next attempt is due or somebody asks', async () => {
    await using rigged = await rig();
    await rigged.says('waiting', 1);
    await rigged.set(`status = 'published', published_at = now()`);
    await rigged.delivery.retryNow();
    assert.equal((await rigged.delivery.result()).state, 'delivered');
  });
});

suite('input', () => {
  const ids: [name: string, id: unknown, ends: RegExp | 'gone'][] = [
    ['an unknown id', crypto.randomUUID(), 'gone'],
    ['nothing', undefined, /takes the id of a message.*undefined/],
    ['another text', 'message 1', /takes the id of a message.*"message 1"/],
    ['an object', { id: crypto.randomUUID() }, /takes the id of a message/],
  ];
  for (const [name, id, ends] of ids) {
    test(name, async () => {
      await using rigged = await rig();
      const run = rigged.namespace.client.workflow.execute('outboxDelivery', {
        workflowId: 'outbox-delivery/another',
        taskQueue,
        args: [id],
      });
      if (ends === 'gone') assert.equal((await run).state, 'gone');
      else {
        const failed = (error: unknown) =>
          error instanceof WorkflowFailedError &&
          ends.test(error.cause?.message ?? '') &&
          (error.cause as { type?: string }).type === 'invalid_input';
        await assert.rejects(run, failed);
      }
    });
  }
});

test('Reports that make no sense change nothing', async () => {
  await using rigged = await rig();
  const before = await rigged.says('waiting', 1);
  for (const nonsense of [
    undefined,
    null,
    7,
    'dead',
    [],
    {},
    { id: rigged.id, status: 'dead' },
    { id: 'x' },
  ]) {
    await rigged.workflow.signal('report', nonsense);
  }
  const after = await rigged.delivery.status();
  assert.deepEqual(after, before);
});
