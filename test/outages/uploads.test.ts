// The topic is the platform's own, which every worker of the run consumes: what is sent here must be gone afterwards.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { after, test } from 'node:test';
import { objectKey } from '../../src/database/uploadOutcomes.ts';
import { eventually } from '../support/eventually.ts';
import { testStack } from '../support/stack.ts';
import {
  bytesAt,
  copiesOf,
  deleteUploadTopic,
  multiparts,
  random,
  type SentFile,
  sha256,
  type UploadRow,
  type UploadWorld,
  uploadWorld,
} from '../support/uploadWorld.ts';

after(deleteUploadTopic);

const KIB = 1024;
const MIB = 1024 * KIB;
/** Up to 700,000 bytes travel in the message, the others by the spool. */
const SIZES = [0, 1, 700_000, 700_001, 6 * MIB];
const NAMES = ['a b.txt', 'ünïcödé 文.bin', '../../etc/passwd', '/etc/shadow', `${'x'.repeat(300)}.pdf`];

const sendAll = (world: UploadWorld, prefix: string): Promise<SentFile[]> =>
  Promise.all(
    SIZES.map(async (size, index) =>
      world.send(`${NAMES[index]} ${prefix}`, random(size), await world.database.connect()),
    ),
  );

const isOn =
  (tier: UploadRow['tier'], state: UploadRow['state']) =>
  (row: UploadRow): boolean =>
    row.tier === tier && row.state === state;

async function become(
  world: UploadWorld,
  what: string,
  sent: SentFile[],
  is: (row: UploadRow) => boolean,
): Promise<UploadRow[]> {
  return eventually(what, async () => {
    const rows = await world.rows(sent);
    return rows.length === sent.length && rows.every(is) ? rows : undefined;
  });
}

/** Every byte is where the row says, and what was sent. */
async function assertWhole(world: UploadWorld, sent: SentFile[]): Promise<void> {
  const rows = new Map((await world.rows(sent)).map((row) => [row.key, row]));
  for (const file of sent) {
    const row = rows.get(file.key)!;
    const bytes = await bytesAt(world.places, row.location);
    assert.deepEqual([bytes.length, sha256(bytes), row.sha256], [file.size, file.sha256, file.sha256]);
  }
}

/** In S3, once, and nowhere else. */
async function assertPromoted(world: UploadWorld, sent: SentFile[]): Promise<void> {
  await eventually('the copies below to be gone', async () =>
    (await world.rows(sent)).every(({ touched }) => touched.join() === 's3'),
  );
  await assertWhole(world, sent);
  const expected = sent.map(({ key }) => `s3:uploads/${objectKey(key)}`);
  assert.deepEqual((await copiesOf(world.places, sent)).sort(), expected.sort());
}

test('without S3 a file is on the filesystem tier, without that one in Redis, and both say so; S3 is back: promoted, verified, and gone below', async () => {
  await using world = await uploadWorld();
  await world.work();
  const away = `${world.storageDir}.away`;
  await testStack().stop(['s3']);
  let all: SentFile[];
  try {
    const first = await sendAll(world, 'first');
    await become(world, 'all on the filesystem tier', first, isOn('filesystem', 'promoting'));
    await assertWhole(world, first);
    const { receipt, state } = await world.namespace.orchestrator.upload(first[4]!.key).status();
    assert.equal(state, 'promoting');
    assert.deepEqual(
      [receipt?.tier, receipt?.size, receipt?.sha256],
      ['filesystem', 6 * MIB, first[4]!.sha256],
    );
    assert.match(receipt!.location, new RegExp(`^file://${world.storageDir}/uploads/`));
    assert.match(receipt!.durability, /fsync/);

    await rename(world.storageDir, away);
    const second = await sendAll(world, 'second');
    const rows = await become(world, 'all in Redis', second, isOn('redis', 'promoting'));
    assert.match(rows[0]!.location, /^redis:\/\/127\.0\.0\.1/);
    await assertWhole(world, second);
    all = [...first, ...second];
  } finally {
    await testStack().start(['s3']);
    if (existsSync(away)) await rename(away, world.storageDir);
  }
  await world.hurry(all);
  await become(world, 'all in S3', all, isOn('s3', 'promoted'));
  await assertPromoted(world, all);
  const { receipt, state } = await world.namespace.orchestrator.upload(all[9]!.key).status();
  assert.deepEqual([state, receipt?.tier], ['promoted', 's3']);
  assert.ok(Date.parse(receipt!.promoted_at!) >= Date.parse(receipt!.stored_at));
  const { rows: events } = await world.database.client.query(
    `SELECT payload->>'idempotency_key' AS key, array_agg(payload->>'tier' ORDER BY relay_seq) AS tiers
     FROM core_outboxmessage WHERE topic = 'upload.receipts' GROUP BY 1`,
  );
  assert.deepEqual(
    new Map(events.map(({ key, tiers }) => [key, tiers.join()])),
    new Map(all.map(({ key }, index) => [key, index < SIZES.length ? 'filesystem,s3' : 'redis,s3'])),
  );
});

/** Files on the filesystem tier while S3 is back, and a worker that will bring them there in a minute, or when hurried. */
async function belowS3(world: UploadWorld, ...sizes: number[]): Promise<SentFile[]> {
  await testStack().stop(['s3']);
  try {
    const sent: SentFile[] = [];
    for (const size of sizes) sent.push(await world.send(`${size} bytes`, random(size)));
    await become(world, 'the copies below', sent, isOn('filesystem', 'promoting'));
    return sent;
  } finally {
    await testStack().start(['s3']);
  }
}

const HELD = `locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`;

/** Whoever writes such a row waits. */
async function holdUpdates({ database }: UploadWorld, when: string): Promise<void> {
  await (await database.connect()).query('SELECT pg_advisory_lock(7)');
  await database.client.query(
    `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
     CREATE TRIGGER hold BEFORE UPDATE ON orchestrator.upload FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION hold()`,
  );
}

const held = async ({ database }: UploadWorld): Promise<number> =>
  (await database.client.query(`SELECT FROM pg_locks WHERE ${HELD}`)).rowCount!;

/** Those who wait are gone without having written, as if their host were. */
async function dropHeld({ database }: UploadWorld): Promise<void> {
  await database.client.query(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE ${HELD}`);
  await database.client.query('DROP TRIGGER hold ON orchestrator.upload');
}

const partsOf = (world: UploadWorld, { key }: SentFile): Promise<boolean> =>
  eventually(
    'its parts',
    async () => (await multiparts(world.places)).includes(`uploads/${objectKey(key)}`),
    {
      everyMs: 1,
    },
  );

test('a worker killed with -9 in the middle of three promotions: each is one object at the end, and nothing below', async () => {
  await using world = await uploadWorld();
  const first = await world.work();
  const all = await belowS3(world, 6 * MIB, 1, 96 * MIB);
  const [copied, cleared, begun] = all as [SentFile, SentFile, SentFile];
  await holdUpdates(
    world,
    `OLD.state = 'promoting' AND NEW.state = 'promoted' AND NEW.filename = '${copied.filename}'
     OR cardinality(NEW.touched_tiers) < cardinality(OLD.touched_tiers) AND NEW.filename = '${cleared.filename}'`,
  );
  await world.hurry([copied, cleared]);
  await eventually('both to be held', async () => (await held(world)) === 2);
  await world.hurry([begun]);
  await partsOf(world, begun);
  await first.end('SIGKILL');
  await dropHeld(world);

  const file = (tier: string, { key }: SentFile) => `${tier}${objectKey(key)}`;
  assert.deepEqual(
    (await copiesOf(world.places, all)).sort(),
    [
      file('filesystem:', copied),
      file('s3:uploads/', copied),
      file('s3:uploads/', cleared),
      file('filesystem:', begun),
      file('s3-parts:uploads/', begun),
    ].sort(),
  );
  assert.deepEqual(
    new Map(
      (await world.rows(all)).map(({ key, state, tier, touched }) => [
        key,
        [state, tier, ...touched.toSorted()],
      ]),
    ),
    new Map([
      [copied.key, ['promoting', 'filesystem', 'filesystem', 's3']],
      [cleared.key, ['promoted', 's3', 'filesystem', 's3']],
      [begun.key, ['promoting', 'filesystem', 'filesystem', 's3']],
    ]),
  );
  await world.work();
  await become(world, 'the promotions', all, isOn('s3', 'promoted'));
  // What the killed worker had begun in parts is left to the janitor.
  assert.equal((await world.sweepAll()).swept.stranded, 1);
  await assertPromoted(world, all);
});

test("a person's cancel while the bytes go up, or wait to: the copy below stays, the janitor leaves nothing above, and the row is true", async () => {
  await using world = await uploadWorld();
  await world.work();
  const all = await belowS3(world, 96 * MIB, 1);
  const [large, small] = all as [SentFile, SentFile];
  await world.hurry([large]);
  await partsOf(world, large);
  // Else it would be done before the cancellation reaches it.
  testStack().signal('s3', 'SIGSTOP');
  try {
    for (const { key } of all) {
      const handle = world.namespace.orchestrator.upload(key);
      await handle.cancel();
      await assert.rejects(handle.result(), { name: 'WorkflowFailedError' });
      const { state, receipt } = await handle.status();
      assert.deepEqual([state, receipt?.tier], ['stored', 'filesystem']);
    }
  } finally {
    testStack().signal('s3', 'SIGCONT');
  }
  await become(world, 'the rows', all, isOn('filesystem', 'stored'));
  await assertWhole(world, all);
  await world.sweepAll();
  const below = all.map(({ key }) => `filesystem:${objectKey(key)}`);
  assert.deepEqual((await copiesOf(world.places, all)).sort(), below.sort());

  await world.namespace.orchestrator.startUpload(small.key);
  await world.hurry([small]);
  await become(world, 'the promotion after all', [small], isOn('s3', 'promoted'));
  await assertPromoted(world, [small]);
});
