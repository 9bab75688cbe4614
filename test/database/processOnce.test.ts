import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import type pg from 'pg';
import { complete } from '../../src/database/idempotency.ts';
import { openPool } from '../../src/database/postgres.ts';
import { type ProcessOnce, processOnce } from '../../src/database/processOnce.ts';
import { OrchestratorError } from '../../src/domain/errors.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { Loss } from '../support/faultProxy.ts';
import { claim, expire, hold } from '../support/idempotency.ts';
import { postgresProxy, through } from '../support/postgresProxy.ts';

const work: ProcessOnce = { key: 'k', operation: 'op' };

/** Work under way: `running` when it has begun, `finish` ends it. */
function slowly<T>() {
  const { promise, resolve: finish, reject: fail } = Promise.withResolvers<T>();
  const running = Promise.withResolvers<AbortSignal>();
  const run = (signal: AbortSignal) => {
    running.resolve(signal);
    return promise;
  };
  return { run, running: running.promise, finish, fail };
}

const aborted = (signal: AbortSignal) => eventually('the signal to abort', () => signal.aborted);

describe('processOnce', () => {
  let database: TestDatabase;
  let pool: pg.Pool;
  beforeEach(async () => {
    database = await outboxDatabase();
    pool = openPool(database.url);
  });
  afterEach(async () => {
    await pool.end();
    await database[Symbol.asyncDispose]();
  });

  test('runs once, and hands its result to every later caller as JSON keeps it', async () => {
    const at = new Date(0);
    const first = await processOnce(pool, { ...work, payload: { b: 1, a: 2 } }, () => ({
      at,
      gone: undefined,
    }));
    const second = await processOnce(pool, { ...work, payload: { a: 2, b: 1 } }, () =>
      assert.fail('runs twice'),
    );
    assert.deepEqual(first, { at: at.toISOString() });
    assert.deepEqual(second, first);
    assert.equal(await processOnce(pool, { ...work, key: 'nothing' }, () => undefined), null);
    assert.equal(await processOnce(pool, { ...work, key: 'nothing' }, () => assert.fail('runs twice')), null);
  });

  test('refuses another payload under the same key, and says it of no payload that cannot be told', async () => {
    await processOnce(pool, { ...work, payload: { card: 1 } }, () => 'paid');
    await assert.rejects(
      processOnce(pool, { ...work, payload: { card: 2 } }, () => assert.fail('runs twice')),
      { code: 'idempotency_mismatch', retryable: false },
    );
    await assert.rejects(
      processOnce(pool, { ...work, payload: 1n }, () => 'paid'),
      { code: 'invalid_input' },
    );
    await assert.rejects(
      processOnce(pool, { ...work, waitSeconds: Number.NaN }, () => 'paid'),
      {
        code: 'invalid_input',
      },
    );
  });

  test('gives the key up when the work throws, and throws the same', async () => {
    const mistake = new Error('no luck');
    const failing = () => {
      throw mistake;
    };
    await assert.rejects(processOnce(pool, work, failing), (error) => error === mistake);
    await assert.rejects(
      processOnce(pool, work, async () => failing()),
      (error) => error === mistake,
    );
    assert.equal(await processOnce(pool, work, () => 'better'), 'better');
  });

  test('gives the key up when the result cannot be stored, and says why', async () => {
    const tooLarge = () => 'x'.repeat(2_000_000);
    await assert.rejects(processOnce(pool, work, tooLarge), { code: 'invalid_input', message: /2000002/ });
    await assert.rejects(
      processOnce<unknown>(pool, work, () => 1n),
      { code: 'invalid_input' },
    );
    assert.equal(await processOnce(pool, work, () => 'small'), 'small');
  });

  test('tells who comes meanwhile that it is in progress, unless they wait for the result', async () => {
    const { run, running, finish } = slowly<string>();
    const first = processOnce(pool, work, run);
    await running;
    await assert.rejects(processOnce(pool, work, run), (error) => {
      assert.ok(error instanceof OrchestratorError);
      assert.equal(error.code, 'idempotency_in_progress');
      assert.match(error.message, /^key "k" of operation "op" is being worked on, and held until 2\d{3}-/);
      return error.retryable;
    });
    await assert.rejects(processOnce(pool, { ...work, waitSeconds: 0.1 }, run), {
      code: 'idempotency_in_progress',
    });
    const waiting = processOnce(pool, { ...work, waitSeconds: 60 }, () => 'twice');
    finish('done');
    assert.deepEqual(await Promise.all([first, waiting]), ['done', 'done']);
  });

  test('lets one of those who wait run when the work has failed', async () => {
    const { run, running, fail } = slowly<string>();
    const first = processOnce(pool, work, run);
    await running;
    const waiting = Array.from({ length: 5 }, (_, n) =>
      processOnce(pool, { ...work, waitSeconds: 60 }, () => n),
    );
    fail(new Error('no luck'));
    await assert.rejects(first, /no luck/);
    assert.equal(new Set(await Promise.all(waiting)).size, 1);
  });

  test('renews the key for as long as the work takes', async () => {
    const { run, running, finish } = slowly<string>();
    const first = processOnce(pool, { ...work, holdSeconds: 1 }, run);
    const signal = await running;
    for (let renewals = 0; renewals < 2; renewals += 1) {
      await expire(database.client);
      await eventually('a renewal', async () => {
        const { rows } = await pool.query('SELECT expires_at > now() AS held FROM core_idempotencyrecord');
        return rows[0].held;
      });
    }
    assert.equal(signal.aborted, false);
    finish('done');
    assert.equal(await first, 'done');
  });

  test('aborts the work when another has the key, and stores nothing', async () => {
    const { run, running, finish } = slowly<string>();
    const first = processOnce(pool, { ...work, holdSeconds: 1 }, run);
    const signal = await running;
    // By hand, because it renews all the time.
    await pool.query(`UPDATE core_idempotencyrecord SET holder = gen_random_uuid()`);
    await aborted(signal);
    assert.equal(signal.reason.code, 'idempotency_lost');
    assert.match(signal.reason.message, /was claimed by another/);
    finish('late');
    await assert.rejects(first, { code: 'idempotency_lost', retryable: true });
    assert.notEqual((await claim(pool)).outcome, 'completed');
  });

  test('aborts the work when the key cannot be renewed in time, and throws what the work then throws', async () => {
    const proxy = await postgresProxy();
    const distant = openPool(through(proxy, database.url));
    const { run, running, fail } = slowly<string>();
    const first = processOnce(distant, { ...work, holdSeconds: 1 }, run);
    const signal = await running;
    await proxy[Symbol.asyncDispose]();
    await aborted(signal);
    assert.match(signal.reason.message, /could not be renewed in time/);
    fail(signal.reason);
    await assert.rejects(first, { code: 'idempotency_lost' });
    await distant.end();
  });

  for (const direction of ['request', 'response'] as const) {
    test(`stores the result where the ${direction} of storing it was lost`, async () => {
      await using proxy = await postgresProxy();
      const distant = openPool(through(proxy, database.url));
      const loss = new Loss({ kind: 'UPDATE', direction, effect: 'cut' });
      proxy.arm(loss);
      assert.equal(await processOnce(distant, work, () => 'once'), 'once');
      assert.equal(loss.isOver, true);
      assert.equal(await processOnce(pool, work, () => 'twice'), 'once');
      await distant.end();
    });
  }

  test('says that Postgres is away when it cannot claim', async () => {
    const nowhere = openPool('postgresql://nobody@127.0.0.1:1/none');
    await assert.rejects(
      processOnce(nowhere, work, () => assert.fail('runs')),
      { code: 'postgres_unavailable' },
    );
    await nowhere.end();
  });

  for (const days of [-10_000, 0, 10_000]) {
    test(`is the same for a caller whose clock is ${days} days ahead: no time of a caller is ever sent`, async () => {
      const sent: unknown[] = [];
      const spying = new Proxy(pool, {
        get: (target, name) =>
          name === 'query'
            ? (text: string, values: unknown[]) => {
                sent.push(text, ...values);
                return target.query(text, values);
              }
            : Reflect.get(target, name),
      });
      mock.timers.enable({ apis: ['Date'], now: Date.now() + days * 86_400_000 });
      try {
        const { run, running, finish } = slowly<string>();
        const first = processOnce(spying, { ...work, holdSeconds: 1, payload: 1 }, run);
        await running;
        await assert.rejects(processOnce(spying, work, run), { code: 'idempotency_in_progress' });
        assert.equal((await claim(database.client)).outcome, 'in_progress');
        await eventually('a renewal', () =>
          sent.some((value) => /SET expires_at = until/.test(String(value))),
        );
        finish('done');
        assert.equal(await first, 'done');
        assert.equal(await processOnce(spying, work, () => 'twice'), 'done');
      } finally {
        mock.timers.reset();
      }
      await expire(database.client);
      await complete(spying as never, await hold(spying), 'new');
      const values = new Set(
        sent.filter((value) => !/core_idempotencyrecord|^[0-9a-f-]{36,}$/.test(String(value))),
      );
      assert.deepEqual(values, new Set(['k', 'op', 1, 60, null, 86_400, '"done"', '"new"']));
    });
  }
});
