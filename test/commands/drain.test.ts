import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows } from '../support/outbox.ts';
import { OutboxCommand, runOutboxCommand } from '../support/outboxCommand.ts';
import { assertExactlyOnceInOrder, numberedRows } from '../support/sequences.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

test('drain delivers what is there, pauses the shard with no batch open, and says how to go on', async () => {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const topic = uniqueTopic();
  await using reader = await readTopics([topic]);
  const env = {
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_OUTBOX_SHARDS: '1',
  };
  await using worker = await startWorker(env);
  await worker.ready();
  const relay = namespace.orchestrator.outboxRelay(0);

  // A parked message holds its key back: that is not waited for.
  const { client } = database;
  await insertRows(client, [{ topic, key: 'held', headers: [1] }]);
  await eventually('the row to be parked', async () => (await countByStatus(client)).failed === 1);
  await client.query(
    `UPDATE core_outboxmessage SET next_retry_at = now() + interval '1 day', max_attempts = 1000`,
  );
  await insertRows(client, [{ topic, key: 'held' }]);

  // Paused with rows to deliver, it can't be emptied.
  await relay.pause();
  await eventually('the pause', async () => (await relay.status()).state === 'paused');
  const rows = numberedRows({ topics: [topic], keys: 50, perKey: 100 });
  await insertRows(client, rows);
  const paused = await runOutboxCommand(env, 'drain', '0');
  assert.match(
    paused.stderr,
    /^command_refused: shard 0 is paused with rows to deliver, .* --name resume\n$/,
  );
  assert.equal(paused.code, 1);

  await using command = new OutboxCommand(env, ['drain', '0']);
  await relay.resume();
  const { code, stdout, stderr } = await command.end();
  if (code !== 0) {
    // It may have asked before the relay knew that it goes on.
    assert.match(stderr, /paused with rows to deliver/);
    const second = await runOutboxCommand(env, 'drain', '0');
    assert.equal(second.code, 0, second.stderr);
  } else {
    assert.match(stdout, /shard 0 is empty and its relay is paused/);
    assert.match(stdout, /2 rows are parked or wait behind a parked one/);
    assert.match(stdout, /To go on: temporal workflow signal --workflow-id outbox-relay-0 --name resume/);
  }
  assert.equal((await countByStatus(client)).published, rows.length);
  assert.equal((await relay.status()).state, 'paused');
  const { rows: journals } = await client.query('SELECT open_batch, owner FROM orchestrator.outbox_journal');
  assert.equal(journals[0].open_batch, null);
  assert.match(journals[0].owner, /^npm run outbox -- drain 0 \(/);

  const later = numberedRows({ topics: [topic], keys: 50, perKey: 1 }).map((row) => ({
    ...row,
    key: `later-${row.key}`,
  }));
  await insertRows(client, later);
  // Again on a shard that waits: it says so rather than wait for ever.
  assert.equal((await runOutboxCommand(env, 'drain', '0')).code, 1);
  await relay.resume();
  await eventually('the rows that waited', () => reader.received.length >= rows.length + later.length);
  assertExactlyOnceInOrder(reader.received, [...rows, ...later]);
});
