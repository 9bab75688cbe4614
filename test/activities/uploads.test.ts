import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { suite, test } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import fc from 'fast-check';
import type pg from 'pg';
import {
  createUploadBytesActivities,
  UploadBytes,
  type UploadBytesActivities,
} from '../../src/activities/uploadBytes.ts';
import { createUploadActivities } from '../../src/activities/uploads.ts';
import { openPool } from '../../src/database/postgres.ts';
import { markCancelled, objectKey } from '../../src/database/uploadOutcomes.ts';
import type { AskedUpload } from '../../src/database/uploads.ts';
import { readUpload } from '../../src/database/uploads.ts';
import { MAX_BYTES_AT_ONCE, TIER_NAMES, type TierName } from '../../src/domain/uploads.ts';
import { SourceError, UploadSources } from '../../src/storage/uploadSources.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { askedUpload, letters, type Mood, receipts, TestTier, take, uploadRow } from '../support/uploads.ts';

/** A tier that answers success without having it finds that out by its own check, and says that it is corrupt. */
const SAYS_NO: Mood[] = ['refuses', 'corrupts', 'forgets'];

/** The activities on an upload of their own, with tiers in whatever mood. */
async function rig(upload: AskedUpload = askedUpload('abc'), names: readonly TierName[] = TIER_NAMES) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const { client } = database;
  const pool = openPool(database.url);
  stack.defer(() => pool.end());
  await take(client, [upload]);
  const tiers = {
    s3: new TestTier('s3'),
    filesystem: new TestTier('filesystem'),
    redis: new TestTier('redis'),
  };
  const sources = new UploadSources({ spoolDir: undefined, allowed: [], s3: undefined });
  let worth: TierName[] = [...names];
  let limitMs = 60_000;
  const bytes = new UploadBytes({
    pool,
    tiers: names.map((name) => tiers[name]),
    tiersWorthTrying: async () => worth,
    sources,
    limitMs: () => limitMs,
  });
  const activities = createUploadBytesActivities(bytes);
  const key = upload.idempotencyKey;
  const run = <T>(work: (activities: UploadBytesActivities) => Promise<T>, env = environment()): Promise<T> =>
    env.run(() => work(activities));
  return {
    client,
    key,
    object: objectKey(key),
    tiers,
    pool,
    sources,
    bytes,
    run,
    row: () => uploadRow(client, key),
    store: (attempt = 1, everyTier = false) =>
      run(({ storeUpload }) => storeUpload({ key, everyTier, attempt })),
    promote: (everyTier = false) => run(({ promoteUpload }) => promoteUpload({ key, everyTier })),
    clear: () => run(({ clearLeftovers }) => clearLeftovers(key)),
    limitTo(ms: number) {
      limitMs = ms;
    },
    onlyWorth(...tiers: TierName[]) {
      worth = tiers;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const environment = () => new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });

suite('storing', () => {
  test('the best tier that works has it, the row says where, and an event tells it', async () => {
    await using r = await rig();
    r.tiers.s3.mood = 'away';
    const outcome = await r.store();
    assert.ok(outcome.kind === 'stored');
    assert.deepEqual([outcome.receipt.tier, outcome.better, outcome.leftovers], ['filesystem', ['s3'], []]);
    assert.equal(r.tiers.filesystem.copies.get(r.object)?.toString(), 'abc');
    const row = await r.row();
    assert.deepEqual(
      [row.state, row.tier, row.touched_tiers],
      ['promoting', 'filesystem', ['s3', 'filesystem']],
    );
    assert.equal((await receipts(r.client, r.key)).length, 1);
    // As after a kill before the answer: the second attempt finds it, and writes nothing.
    const again = await r.store();
    assert.ok(again.kind === 'stored');
    assert.deepEqual(again.receipt, outcome.receipt);
    assert.equal(r.tiers.filesystem.stores, 1);
    assert.equal((await receipts(r.client, r.key)).length, 1);
  });

  test('tiers whose health is bad are not tried, unless somebody is in a hurry', async () => {
    await using r = await rig();
    r.tiers.redis.mood = 'away';
    r.onlyWorth('redis');
    const outcome = await r.store();
    assert.ok(outcome.kind === 'away');
    assert.match(outcome.error, /s3: untried.*filesystem: untried.*redis: storage_unavailable: no answer/);
    assert.equal(r.tiers.s3.stores, 0);
    assert.equal((await r.row()).attempts, 0);
    assert.equal((await r.store(1, true)).kind, 'stored');
    assert.equal((await r.row()).tier, 's3');
  });

  test('what every tier refuses spends the attempt, however often the activity is repeated', async () => {
    await using r = await rig();
    r.tiers.s3.mood = 'refuses';
    r.tiers.filesystem.mood = 'corrupts';
    r.tiers.redis.mood = 'refuses';
    for (const _ of [1, 2]) assert.equal((await r.store(3)).kind, 'refused');
    const row = await r.row();
    assert.deepEqual([row.attempts, row.state, row.tier, row.data?.toString()], [3, 'waiting', null, 'abc']);
    assert.match(row.last_error!, /s3: storage_refused: forbidden; filesystem: upload_corrupt/);
    r.tiers.redis.mood = 'away';
    assert.equal((await r.store(4)).kind, 'away');
    assert.equal((await r.row()).attempts, 3);
  });

  test('without a tier nothing is refused', async () => {
    await using r = await rig(askedUpload('abc'), []);
    const outcome = await r.store();
    assert.ok(outcome.kind === 'away');
    assert.match(outcome.error, /no storage tier is configured/);
  });

  test('an upload that was cancelled meanwhile does not become stored', async () => {
    await using r = await rig();
    r.tiers.s3.beforeAnswer = async () => void (await markCancelled(r.client, r.key));
    await assert.rejects(r.store(), { type: 'upload_refused', nonRetryable: true });
    const row = await r.row();
    assert.deepEqual([row.state, row.tier, row.touched_tiers], ['cancelled', null, ['s3']]);
  });

  test('a tier that hangs is away after a while, and the next one has it; what it says later counts for nothing', async () => {
    await using r = await rig();
    r.limitTo(200);
    const hanging = Promise.withResolvers<void>();
    r.tiers.s3.beforeAnswer = () => hanging.promise;
    const outcome = await r.store();
    assert.ok(outcome.kind === 'stored');
    assert.equal(outcome.receipt.tier, 'filesystem');
    hanging.resolve();
    const row = await r.row();
    assert.deepEqual([row.tier, row.touched_tiers], ['filesystem', ['s3', 'filesystem']]);
  });

  test('a cancelled activity ends also while a tier hangs', async () => {
    await using r = await rig();
    const env = environment();
    r.tiers.s3.beforeAnswer = () => {
      env.cancel();
      return new Promise(() => {});
    };
    const { key } = r;
    await assert.rejects(
      r.run(({ storeUpload }) => storeUpload({ key, everyTier: false, attempt: 1 }), env),
      { name: 'CancelledFailure' },
    );
  });

  test('a source that hangs is away after a while, and spends nothing', async () => {
    await using r = await rig(askedUpload('abc', { dataBase64: null, dataRef: 'spool:x' }));
    r.limitTo(200);
    r.sources.open = () => new Promise(() => {});
    const outcome = await r.store();
    assert.ok(outcome.kind === 'away');
    assert.match(outcome.error, /source: storage_unavailable: it did not end within/);
    assert.equal((await r.row()).attempts, 0);
  });

  test('when Postgres does not give the bytes no tier is to blame', async () => {
    await using r = await rig();
    onBytes(r.pool, () => Promise.reject(new Error('Connection terminated unexpectedly')));
    await assert.rejects(r.store(), { type: 'postgres_unavailable', nonRetryable: false });
    const { attempts, last_error } = await r.row();
    assert.deepEqual([attempts, last_error], [0, null]);
  });

  test('a cancelled activity ends also while anything else hangs', async () => {
    await using r = await rig();
    const env = environment();
    const { key } = r;
    r.pool.query = (() => {
      env.cancel();
      return new Promise(() => {});
    }) as typeof r.pool.query;
    await assert.rejects(
      r.run(({ storeUpload }) => storeUpload({ key, everyTier: false, attempt: 1 }), env),
      { name: 'CancelledFailure' },
    );
  });

  test('a cancelled activity ends as such', async () => {
    await using r = await rig();
    const env = environment();
    r.tiers.s3.beforeAnswer = () => {
      env.cancel();
      throw new Error('the connection was closed');
    };
    const { key } = r;
    await assert.rejects(
      r.run(({ storeUpload }) => storeUpload({ key, everyTier: false, attempt: 1 }), env),
      { name: 'CancelledFailure' },
    );
    assert.equal((await r.row()).state, 'waiting');
  });
});

/** Has the statement that reads an upload's bytes answered by the test. */
function onBytes(pool: pg.Pool, answer: () => Promise<never>): void {
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown;
  const listening = (...args: unknown[]) =>
    String(args[0]).startsWith('SELECT data ') ? answer() : query(...args);
  pool.query = listening as typeof pool.query;
}

suite('promoting', () => {
  test('a better tier gets it, verified; only then the copy below goes', async () => {
    await using r = await rig();
    r.onlyWorth('redis');
    await r.store();
    r.onlyWorth('filesystem', 'redis');
    const first = await r.promote();
    assert.ok(first.kind === 'stored');
    assert.deepEqual([first.receipt.tier, first.better, first.leftovers], ['filesystem', ['s3'], ['redis']]);
    await r.clear();
    assert.deepEqual([...r.tiers.redis.copies.keys()], []);
    r.onlyWorth('s3');
    r.tiers.s3.mood = 'corrupts';
    assert.equal((await r.promote()).kind, 'refused');
    const row = await r.row();
    assert.deepEqual([row.state, row.tier], ['promoting', 'filesystem']);
    assert.match(row.last_error!, /s3: upload_corrupt/);
    r.tiers.s3.mood = 'up';
    const outcome = await r.promote();
    assert.ok(outcome.kind === 'stored');
    assert.deepEqual([outcome.receipt.tier, outcome.better], ['s3', []]);
    await r.clear();
    assert.deepEqual([...r.tiers.filesystem.copies.keys()], []);
    assert.equal(r.tiers.s3.copies.get(r.object)?.toString(), 'abc');
    assert.deepEqual((await r.row()).touched_tiers, ['s3']);
    const events = await receipts(r.client, r.key);
    assert.deepEqual(
      events.map(({ tier }) => tier),
      ['redis', 'filesystem', 's3'],
    );
  });

  test('what Redis has lost or changed, or does not say, comes from the row again', async () => {
    const losses: ((redis: TestTier, object: string) => void)[] = [
      (redis) => redis.copies.clear(),
      (redis, object) => redis.copies.set(object, Buffer.from('abd')),
      (redis) => {
        redis.mood = 'away';
      },
    ];
    for (const lose of losses) {
      await using r = await rig();
      r.onlyWorth('redis');
      await r.store();
      lose(r.tiers.redis, r.object);
      r.onlyWorth('s3');
      const outcome = await r.promote();
      assert.ok(outcome.kind === 'stored');
      assert.equal(r.tiers.s3.copies.get(r.object)?.toString(), 'abc');
      assert.equal((await r.row()).data, null);
    }
  });

  test('what Redis has lost comes from the reference again; where that is gone too, the upload keeps saying so', async () => {
    await using r = await rig(askedUpload('abc', { dataBase64: null, dataRef: 'spool:it' }));
    let isThere = true;
    r.sources.open = async () => {
      if (isThere) return Readable.from([Buffer.from('abc')]);
      throw new SourceError('upload_refused', 'data_ref (spool): ENOENT');
    };
    r.onlyWorth('redis');
    await r.store();
    r.tiers.redis.copies.clear();
    isThere = false;
    r.onlyWorth('s3');
    const outcome = await r.promote();
    assert.ok(outcome.kind === 'away');
    assert.match(outcome.error, /source: storage_refused: data_ref \(spool\): ENOENT/);
    assert.equal((await r.row()).state, 'promoting');
    isThere = true;
    assert.equal((await r.promote()).kind, 'stored');
    assert.equal(r.tiers.s3.copies.get(r.object)?.toString(), 'abc');
  });

  test('killed after each step, it is done again without harm', async () => {
    await using r = await rig();
    r.onlyWorth('redis');
    await r.store();
    r.onlyWorth('s3');
    r.tiers.s3.beforeAnswer = () => {
      throw new Error('killed after the bytes were there');
    };
    assert.equal((await r.promote()).kind, 'away');
    assert.equal((await r.row()).tier, 'redis');
    r.tiers.s3.beforeAnswer = () => {};
    await r.promote();
    // Killed before the answer: the second attempt finds nothing above, and the copy below is still to go.
    const again = await r.promote();
    assert.ok(again.kind === 'stored');
    assert.deepEqual(again.leftovers, ['redis']);
    assert.equal((await receipts(r.client, r.key)).length, 2);
    r.tiers.redis.mood = 'away';
    await assert.rejects(r.clear(), { type: 'storage_unavailable', nonRetryable: false });
    r.tiers.redis.mood = 'up';
    await r.clear();
    await r.clear();
    assert.equal(r.tiers.redis.copies.size, 0);
    assert.equal(r.tiers.s3.copies.size, 1);
  });

  test('a tier that hangs holds neither the look at a copy nor the removal of one', async () => {
    await using r = await rig();
    r.onlyWorth('redis');
    await r.store();
    r.onlyWorth('s3');
    await r.promote();
    r.limitTo(200);
    r.tiers.s3.verify = () => new Promise(() => {});
    r.tiers.redis.remove = () => new Promise(() => {});
    const late = { type: 'storage_unavailable', message: /did not end within/ };
    await assert.rejects(
      r.run(({ verifyUpload }) => verifyUpload(r.key)),
      late,
    );
    await assert.rejects(r.clear(), late);
  });

  test('a copy that is gone or has changed is told', async () => {
    await using r = await rig();
    await r.store();
    const verify = () => r.run(({ verifyUpload }) => verifyUpload(r.key));
    assert.equal((await verify()).tier, 's3');
    r.tiers.s3.copies.set(r.object, Buffer.from('abd'));
    await assert.rejects(verify(), { type: 'upload_corrupt', message: /changed/ });
    r.tiers.s3.copies.clear();
    await assert.rejects(verify(), { type: 'upload_corrupt', message: /not there any more/ });
  });
});

test('whatever the tiers do, what the row calls stored is there, and only definite refusals spend attempts', async () => {
  await using r = await rig();
  const moods = fc.constantFrom<Mood>('up', 'away', 'refuses', 'corrupts', 'forgets');
  const round = fc.record({
    s3: moods,
    filesystem: moods,
    redis: moods,
    worth: fc.subarray([...TIER_NAMES]),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 6 }), async (rounds) => {
      const upload = askedUpload('abc');
      const key = upload.idempotencyKey;
      await take(r.client, [upload]);
      let attempts = 0;
      for (const { worth, ...wanted } of rounds) {
        for (const name of TIER_NAMES) r.tiers[name].mood = wanted[name];
        r.onlyWorth(...worth);
        const { receipt, state } = (await readUpload(r.client, key))!;
        const call = { key, everyTier: false };
        const outcome = await r.run((activities) =>
          receipt === null
            ? activities.storeUpload({ ...call, attempt: attempts + 1 })
            : activities.promoteUpload(call),
        );
        const isDefinite = worth.length === 3 && TIER_NAMES.every((name) => SAYS_NO.includes(wanted[name]));
        if (receipt === null && outcome.kind !== 'away') attempts += 1;
        if (receipt === null) assert.equal(outcome.kind === 'refused', isDefinite);
        const now = await uploadRow(r.client, key);
        assert.equal(now.attempts, attempts, `${state} ${outcome.kind}`);
        assert.equal(now.tier !== null, ['stored', 'promoting', 'promoted'].includes(now.state));
        // In the best tier's own words: a place that forgets has never said that it has it.
        if (now.tier) assert.equal(r.tiers[now.tier].copies.get(objectKey(key))?.toString(), 'abc');
        else assert.equal(now.data?.toString(), 'abc');
      }
    }),
    { numRuns: 40 },
  );
});

suite('accepting', () => {
  const short = ({ pool, sources, bytes }: Awaited<ReturnType<typeof rig>>) =>
    createUploadActivities({ pool, tierNames: TIER_NAMES, sources, bytesTaskQueue: 'bytes', bytes });

  test('by key it finds what is there; without a row, or with a bad reference, it is refused', async () => {
    await using r = await rig();
    const { acceptUpload } = short(r);
    const accepted = await acceptUpload(r.key, null);
    assert.deepEqual([accepted.filename, accepted.receipt, accepted.attempts], ['a file.txt', null, 0]);
    await assert.rejects(acceptUpload('unknown', null), { type: 'upload_refused', nonRetryable: true });
    const { idempotencyKey: _, dataBase64: __, ...request } = askedUpload('abc');
    await assert.rejects(acceptUpload('new', { ...request, dataRef: 'spool:x' }), {
      type: 'upload_refused',
      message: 'data_ref names a file, but SA01_SPOOL_DIR is not set',
    });
    await assert.rejects(uploadRow(r.client, 'new'));
  });

  test('what is small is stored at once, and only once', async () => {
    await using r = await rig();
    const { beginUpload } = short(r);
    const begin = () => r.run(() => beginUpload(r.key, null));
    const { accepted, stored } = await begin();
    assert.deepEqual([accepted.receipt, stored?.receipt.tier, stored?.receipt.attempts], [null, 's3', 1]);
    // As after a kill before the workflow task was answered.
    const again = await begin();
    assert.deepEqual([again.accepted.receipt, again.stored], [stored?.receipt, null]);
    assert.equal(r.tiers.s3.stores, 1);
    assert.equal((await receipts(r.client, r.key)).length, 1);
  });

  test('what is not stored at once is as if it had not been tried', async () => {
    await using r = await rig();
    const { beginUpload } = short(r);
    for (const mood of SAYS_NO) {
      for (const name of TIER_NAMES) r.tiers[name].mood = mood;
      const { stored } = await r.run(() => beginUpload(r.key, null));
      const { attempts, last_error, state } = await r.row();
      assert.deepEqual([stored, attempts, last_error, state], [null, 0, null, 'waiting'], mood);
    }
    for (const name of TIER_NAMES) r.tiers[name].mood = 'up';
    const env = environment();
    r.tiers.s3.beforeAnswer = () => {
      env.cancel();
      return new Promise(() => {});
    };
    assert.equal((await r.run(() => beginUpload(r.key, null), env)).stored, null);
  });

  test('what may not fit into memory is not stored at once', async () => {
    const large = { dataBase64: null, dataRef: 'spool:x', size: MAX_BYTES_AT_ONCE + 1 };
    await using r = await rig(askedUpload('', large));
    let opened = 0;
    r.sources.open = async () => {
      opened += 1;
      return Readable.from([]);
    };
    const { stored } = await r.run(() => short(r).beginUpload(r.key, null));
    assert.deepEqual([stored, opened, r.tiers.s3.stores], [null, 0, 0]);
  });

  test('given up it is one dead letter and one count, and by hand it waits again', async () => {
    await using r = await rig();
    const { acceptUpload, failUpload } = short(r);
    const env = environment();
    for (const _ of [1, 2]) await env.run(() => failUpload(r.key, { code: 'storage_refused', reason: 'no' }));
    assert.equal((await letters(r.client, r.key)).length, 1);
    assert.equal((await r.row()).state, 'failed');
    await acceptUpload(r.key, null);
    assert.equal((await r.row()).state, 'waiting');
    assert.equal((await r.store()).kind, 'stored');
  });

  test('what stayed on a lower tier is to be promoted again', async () => {
    await using r = await rig();
    const { acceptUpload, cancelUpload } = short(r);
    r.onlyWorth('redis');
    await r.store();
    assert.equal((await cancelUpload(r.key))?.tier, 'redis');
    assert.equal((await r.row()).state, 'stored');
    const { better } = await acceptUpload(r.key, null);
    assert.deepEqual(better, ['s3', 'filesystem']);
    await eventually('promoting', async () => (await r.row()).state === 'promoting');
  });
});
