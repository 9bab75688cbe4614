import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { outboxDatabase } from '../support/database.ts';
import { insertRows } from '../support/outbox.ts';

const batchOf = async (journal: OutboxJournal) => {
  const { batch } = await journal.open(0, 10);
  return { number: batch!.number, batchId: batch!.batchId, seqs: batch!.records.map(({ seq }) => seq) };
};

/** Each begins with the journal just as the relay left it: only its epoch can tell that it was replaced. */
suite('a relay that was replaced is refused by Postgres', () => {
  const attempts: Record<string, (journal: OutboxJournal) => Promise<() => Promise<unknown>>> = {
    'when it reads the journal': async (journal) => () => journal.read(),
    'when it opens a batch': async (journal) => () => journal.open(0, 10),
    'when it settles its batch': async (journal) => {
      const batch = await batchOf(journal);
      return () => journal.settle(batch);
    },
    'when it settles its batch and opens the next': async (journal) => {
      const batch = await batchOf(journal);
      return () => journal.settleAndOpen(batch, 10);
    },
    'when it abandons its batch': async (journal) => {
      await batchOf(journal);
      return () => journal.abandon();
    },
  };
  for (const [name, prepare] of Object.entries(attempts)) {
    test(name, async () => {
      await using database = await outboxDatabase();
      await insertRows(database.client, [{ topic: 'fencing', key: 'key' }]);
      const attempt = await prepare(
        await OutboxJournal.takeOver(await database.connect(), 0, database.deployment, 'former'),
      );
      await OutboxJournal.takeOver(await database.connect(), 0, database.deployment, 'successor');
      const look = async () =>
        (await database.client.query('SELECT * FROM orchestrator.outbox_journal, core_outboxmessage')).rows;
      const before = await look();
      await assert.rejects(attempt, { code: 'relay_fenced', message: /since epoch 1$/ });
      assert.deepEqual(await look(), before);
    });
  }
});
