import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { WorkflowFailedError } from '@temporalio/client';
import { createDeadLetterActivities } from '../../src/activities/deadLetters.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { DeadLetterReplayInput } from '../../src/domain/deadLetters.ts';
import { deadLetterReplay, replayStatusQuery } from '../../src/workflows/deadLetters.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { insertRows } from '../support/outbox.ts';
import { refuse } from '../support/parked.ts';
import { temporalNamespace } from '../support/worker.ts';
import { runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';

/** The workflow and its activities, and so many letters. The relay is played by the test: only the test marks rows. */
async function rig(letters: number) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const { client } = database;
  const rows = Array.from({ length: letters }, (_, number) => ({ topic: `topic-${number % 2}`, key: 'k' }));
  const ids = await insertRows(client, rows);
  await client.query('UPDATE core_outboxmessage SET max_attempts = 1');
  assert.equal(await refuse(client, ids), letters);
  await client.query(`UPDATE core_outboxmessage SET status = 'published' WHERE status = 'pending'`);
  const pool = openPool(database.url);
  stack.defer(() => pool.end());
  const namespace = stack.use(await temporalNamespace());
  stack.use(
    await runWorkflows(
      namespace.name,
      taskQueue,
      createDeadLetterActivities({ stop: new AbortController().signal, pool }),
    ),
  );
  const start = async (input?: unknown, workflowId = 'replay') => {
    const handle = await namespace.client.workflow.start(deadLetterReplay, {
      workflowId,
      taskQueue,
      args: (input === undefined ? [] : [input]) as [DeadLetterReplayInput],
    });
    return Object.assign(handle, { status: () => handle.query(replayStatusQuery) });
  };
  const underWay = async (): Promise<string[]> => {
    const { rows: replays } = await client.query<{ letter: string }>(
      `SELECT headers->>'replayed_dead_letter' AS letter FROM core_outboxmessage
       WHERE headers ? 'replayed_dead_letter' AND status = 'pending' ORDER BY relay_seq`,
    );
    return replays.map(({ letter }) => letter);
  };
  return {
    client,
    start,
    underWay,
    /** Plays the relay: waits for so many rows, and publishes them. */
    publish: async (count: number) => {
      await eventually(`${count} messages`, async () => (await underWay()).length === count);
      await client.query(
        `UPDATE core_outboxmessage SET status = 'published', published_at = now() WHERE status = 'pending'`,
      );
    },
    letters: async (condition = 'true'): Promise<string[]> => {
      const found = await client.query<{ id: string }>(
        `SELECT id FROM core_deadlettermessage WHERE ${condition} ORDER BY original_seq`,
      );
      return found.rows.map(({ id }) => id);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test('Without input it replays all letters, page by page, and says how far it is', async () => {
  await using rigged = await rig(230);
  const all = await rigged.letters();
  const replay = await rigged.start();
  for (const [page, count] of [100, 100, 30].entries()) {
    await eventually('the page', async () => (await rigged.underWay()).length === count);
    assert.deepEqual(await rigged.underWay(), all.slice(page * 100, page * 100 + count));
    await eventually('the status', async () => (await replay.status()).replayed === page * 100 + count);
    assert.deepEqual(await replay.status(), {
      state: 'replaying',
      dry_run: false,
      preview: null,
      replayed: page * 100 + count,
      resolved: page * 100,
      failed: 0,
    });
    await rigged.publish(count);
  }
  const { state, replayed, resolved, failed } = await replay.result();
  assert.deepEqual(
    { state, replayed, resolved, failed },
    { state: 'done', replayed: 230, resolved: 230, failed: 0 },
  );
  assert.equal((await rigged.letters(`resolved_by = 'replay' AND resolved`)).length, 230);
});

test('Cancelled, it leaves what was put back; the next one waits for that and sends only the rest', async () => {
  await using rigged = await rig(120);
  const first = await rigged.start({}, 'first');
  await eventually('a page', async () => (await rigged.underWay()).length === 100);
  await first.cancel();
  await assert.rejects(first.result(), WorkflowFailedError);
  assert.equal((await first.status()).state, 'cancelled');
  assert.equal((await first.describe()).status.name, 'CANCELLED');

  const second = await rigged.start({}, 'second');
  await eventually('the status', async () => (await second.status()).replayed === 100);
  assert.equal((await rigged.underWay()).length, 100, 'none of them twice');
  await rigged.publish(100);
  await rigged.publish(20);
  assert.equal((await second.result()).resolved, 120);
  const { rows } = await rigged.client.query(
    `SELECT FROM core_outboxmessage WHERE headers ? 'replayed_dead_letter'`,
  );
  assert.equal(rows.length, 120);
});

test('Two at once share the letters, and none is sent twice', async () => {
  await using rigged = await rig(100);
  const replays = await Promise.all(['one', 'two'].map((id) => rigged.start({}, id)));
  await eventually('both to wait', async () => {
    const statuses = await Promise.all(replays.map((replay) => replay.status()));
    return statuses.every(({ replayed }) => replayed === 100);
  });
  await rigged.publish(100);
  const results = await Promise.all(replays.map((replay) => replay.result()));
  assert.deepEqual(
    results.map(({ resolved }) => resolved),
    [100, 100],
  );
});

test('A letter that is refused again is counted, and not sent again by the same replay', async () => {
  await using rigged = await rig(3);
  const replay = await rigged.start({ resolvedBy: 'me', notes: 'mended' });
  const [refused] = await eventually('the page', async () => {
    const found = await rigged.underWay();
    return found.length === 3 ? found : undefined;
  });
  const { rows } = await rigged.client.query(
    `SELECT id FROM core_outboxmessage WHERE headers->>'replayed_dead_letter' = $1`,
    [refused],
  );
  await refuse(rigged.client, [rows[0].id]);
  await rigged.publish(2);
  const { replayed, resolved, failed } = await replay.result();
  assert.deepEqual({ replayed, resolved, failed }, { replayed: 3, resolved: 2, failed: 1 });
  assert.deepEqual(await rigged.letters('NOT resolved'), [refused]);
  assert.equal((await rigged.letters(`resolved_by = 'me' AND resolution_notes LIKE 'mended; %'`)).length, 2);
});

suite('the selection', () => {
  test('a limit, a topic and ids', async () => {
    await using rigged = await rig(10);
    const all = await rigged.letters();
    const limited = await rigged.start({ topic: 'topic-1', limit: 2 });
    await eventually('two letters', async () => (await rigged.underWay()).length === 2);
    assert.deepEqual(await rigged.underWay(), [all[1], all[3]]);
    await rigged.publish(2);
    assert.equal((await limited.result()).resolved, 2);

    const chosen = [all[8], all[0]];
    const byId = await rigged.start({ ids: chosen });
    await eventually('both', async () => (await rigged.underWay()).length === 2);
    assert.deepEqual(await rigged.underWay(), [all[0], all[8]], 'in their order, not that of the input');
    await rigged.publish(2);
    await byId.result();
    assert.equal((await rigged.letters('resolved')).length, 4);
  });

  test('a dry run says what would be done and does nothing; resolveOnly sends nothing', async () => {
    await using rigged = await rig(4);
    const all = await rigged.letters();
    const dry = await (await rigged.start({ dryRun: true, limit: 3 })).result();
    assert.equal(dry.state, 'done');
    assert.equal(dry.dry_run, true);
    assert.deepEqual(dry.preview, {
      found: 3,
      groups: [
        { topic: 'topic-0', error_type: 'invalid_record', letters: 2 },
        { topic: 'topic-1', error_type: 'invalid_record', letters: 1 },
      ],
      ids: all.slice(0, 3),
    });
    const { rows } = await rigged.client.query<{ moment: string }>(
      `SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 hour', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS moment`,
    );
    const { moment } = rows[0]!;
    const tooLate = await (await rigged.start({ resolveOnly: true, from: moment })).result();
    assert.equal(tooLate.resolved, 0);
    const resolved = await (await rigged.start({ resolveOnly: true, to: moment, limit: 3 })).result();
    assert.deepEqual([resolved.state, resolved.resolved, resolved.replayed], ['done', 3, 0]);
    assert.deepEqual(await rigged.letters('resolved'), all.slice(0, 3));
    assert.deepEqual(await rigged.underWay(), []);
  });
});

test('Bad input fails at once, by its field', async () => {
  await using rigged = await rig(1);
  const inputs: [input: unknown, message: RegExp][] = [
    [7, /deadLetterReplay takes no input, or an object: got 7/],
    [{ limit: 0 }, /^limit must be a whole number from 1 on: got 0$/],
    [{ ids: ['x'], dryRun: 'yes' }, /^ids must be .*; dryRun must be true or false: got "yes"$/],
    [{ from: '2026-02-30T00:00:00Z' }, /^from must be a moment with its offset, such as /],
    [{ form: '2026-01-01' }, /^form is no field: expected topic, ids, from, to, limit/],
  ];
  for (const [input, message] of inputs) {
    const replay = await rigged.start(input);
    await assert.rejects(replay.result(), (error: unknown) => {
      assert.ok(error instanceof WorkflowFailedError);
      assert.match(error.cause?.message ?? '', message);
      assert.equal((error.cause as { type?: string }).type, 'invalid_input');
      return true;
    });
  }
  assert.deepEqual(await rigged.underWay(), []);
});
