import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseCommand, UsageError } from '../../src/commands/parse.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { emptyDatabase, outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { runOutboxCommand } from '../support/outboxCommand.ts';
import { startRelay } from '../support/relay.ts';

const now = Date.parse('2026-06-01T00:00:00Z');

suite('what is typed becomes a command', () => {
  for (const [typed, command] of [
    ['show', { name: 'show' }],
    ['shards 64', { name: 'shards', shards: 64 }],
    ['drain 0', { name: 'drain', shard: 0 }],
    ['repair 3 --compare', { name: 'repair', shard: 3, choice: { kind: 'compare' } }],
    ['repair --resend 3', { name: 'repair', shard: 3, choice: { kind: 'resend' } }],
    ['repair 3 --mark-delivered', markDelivered(undefined)],
    ['repair 3 --mark-delivered --before=2026-05-31T23:00Z', markDelivered('2026-05-31T23:00:00Z')],
    ['repair 3 --before 2026-06-01T01:00:00+01:00 --mark-delivered', markDelivered('2026-06-01T00:00:00Z')],
  ] as const) {
    test(typed, () => assert.deepEqual(parseCommand(typed.split(' '), now), command));
  }
});

function markDelivered(before: string | undefined) {
  const choice = { kind: 'mark-delivered', before: before && new Date(before) };
  return { name: 'repair', shard: 3, choice };
}

suite('what makes no command is refused with a sentence', () => {
  for (const [typed, sentence] of [
    ['', /^Which command\?$/],
    ['mend', /^There is no command "mend"\.$/],
    ['show 1', /^show takes no argument\.$/],
    ['show --resend', /^--resend belongs to repair\.$/],
    ['shards', /^shards needs the new number, an integer from 1 to 64\.$/],
    ['shards 65', /^shards .*: got "65"\.$/],
    ['shards 2 3', /^"3" is one argument too many\.$/],
    ['drain all', /^drain needs a shard, an integer from 0 to 63: got "all"\.$/],
    ['repair 0', /^repair needs one of --compare, --resend and --mark-delivered\.$/],
    ['repair 0 --before 2026-01-01T00:00:00Z', /^repair needs one of/],
    ['repair 0 --resend --compare', /^repair needs one of/],
    ['repair --resend', /^repair needs a shard/],
    ['repair 0 --force', /^Unknown option '--force'/],
    ['repair 0 --compare --before 2026-01-01T00:00:00Z', /^--before belongs to --mark-delivered/],
    ['repair 0 --mark-delivered --before yesterday', /^--before is "yesterday": expected a time/],
    ['repair 0 --mark-delivered --before 2026-01-01T00:00', /^--before is .*: expected a time/],
    ['repair 0 --mark-delivered --before 2026-06-01T00:00:01Z', /expected a time that has passed/],
  ] as const) {
    test(`npm run outbox -- ${typed}`, () => {
      assert.throws(
        () => parseCommand(typed.split(' ').filter(Boolean), now),
        (error: Error) => error instanceof UsageError && sentence.test(error.message),
      );
    });
  }

  test('by a process that shows the usage and ends with code 2', async () => {
    const { code, stdout, stderr } = await runOutboxCommand({}, 'shards');
    assert.match(stderr, /^shards needs the new number.*\n\nnpm run outbox -- <command>\n/);
    assert.deepEqual([code, stdout], [2, '']);
  });
});

suite('a command that cannot be done says why in one sentence and ends with code 1', () => {
  test('on a database that was never set up', async () => {
    await using database = await emptyDatabase();
    const { code, stderr } = await runOutboxCommand({ SA01_DATABASE_URL: database.url }, 'show');
    assert.match(stderr, /^command_refused: this database was never set up: .*\n$/);
    assert.equal(code, 1);
  });

  test('for a shard that does not exist', async () => {
    await using database = await outboxDatabase(2);
    for (const args of [
      ['repair', '2', '--resend'],
      ['drain', '2'],
    ]) {
      const { code, stderr } = await runOutboxCommand({ SA01_DATABASE_URL: database.url }, ...args);
      assert.equal(stderr, 'unknown_shard: shard 2 does not exist: there are 0 to 1\n');
      assert.equal(code, 1);
    }
  });

  test('with Kafka away', async () => {
    await using database = await outboxDatabase();
    const env = { SA01_DATABASE_URL: database.url, SA01_KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:1' };
    const { code, stderr } = await runOutboxCommand(env, 'show');
    assert.match(stderr, /^kafka_unavailable: .*\n$/);
    assert.equal(code, 1);
  });
});

test('a bad variable ends a command with code 2', async () => {
  const { code, stderr } = await runOutboxCommand({ SA01_DATABASE_URL: 'mysql://x' }, 'show');
  assert.match(stderr, /^SA01_DATABASE_URL is .*: expected postgresql/);
  assert.equal(code, 2);
});

test('show tells what Postgres and Kafka know of each shard, and fences nobody', async () => {
  await using database = await outboxDatabase(2);
  await using relay = startRelay(database, 0);
  const keyless = { topic: uniqueTopic() };
  await insertRows(database.client, Array(40).fill(keyless));
  await eventually('shard 0 to be delivered', async () => {
    const delivered = ((await countByStatus(database.client)).published ?? 0) > 0;
    return delivered && relay.reports.at(-1)?.state === 'idle';
  });
  const { pending = 0, published = 0 } = await countByStatus(database.client);
  assert.ok(pending > 0 && published > 0);
  const { code, stdout } = await runOutboxCommand({ SA01_DATABASE_URL: database.url }, 'show');
  assert.equal(code, 0);
  const [title, first, second] = stdout.split('\n\n');
  assert.equal(title, `deployment ${database.deployment.id}, 2 shards`);
  assert.match(first!, /^shard 0\n {2}rows +0 pending, 0 parked\n {2}owner +test, epoch 1, since /);
  const [, batch] = /Postgres +batch 1 \((.+)\) settled, none open/.exec(first!)!;
  assert.match(first!, new RegExp(`Kafka +batch 1 \\(${batch}\\)\n +takeover +goes on: both sides agree`));
  assert.match(second!, new RegExp(`rows +${pending} pending, 0 parked\n +owner +nobody yet`));
  assert.match(second!, /Kafka +no batch\n +takeover +begins: nothing was sent yet/);
  // The relay of shard 0 works on under its epoch.
  await relay.stop();
  await insertRows(database.client, Array(40).fill(keyless));
  const journal = await OutboxJournal.takeOver(await database.connect(), 0, database.deployment, 'killed');
  await journal.open(1, 5);
  const later = await runOutboxCommand({ SA01_DATABASE_URL: database.url }, 'show');
  assert.match(later.stdout, /batch 1 \(.+\) settled, 2 \(.+\) open with 5 rows/);
  assert.match(later.stdout, /takeover +sends the open batch again: Kafka does not have it/);
});
