// What the relay could reach at best: itself without Temporal, a loop without a journal, and each of its two halves
// alone. All of them move the same rows in this process, one shard, one after another.
import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import type { OutboxRecord } from '../../src/domain/outbox.ts';
import type { OutboxPublisher } from '../../src/kafka/outboxPublisher.ts';
import { outboxDatabase } from '../../test/support/database.ts';
import { openPublisher, startRelay } from '../../test/support/relay.ts';
import { testStack } from '../../test/support/stack.ts';
import type { Reporter } from '../report.ts';
import { fillOutbox, KEYS, PAYLOAD_BYTES, publishedPerSecond, untilDelivered } from './rows.ts';
import { newTopic } from './topics.ts';
import { WirePublisher } from './wire/publisher.ts';

const BATCH = 1_000;

export interface Setting {
  database: Awaited<ReturnType<typeof outboxDatabase>>;
  topic: string;
  rows: number;
}

/** Each returns rows a second. */
const contenders: Record<string, { needsRows: boolean; run(setting: Setting): Promise<number> }> = {
  relay_without_temporal: { needsRows: true, run: relayAlone },
  loop_without_journal: { needsRows: true, run: plainLoop },
  kafka_alone: { needsRows: false, run: kafkaAlone },
  relay_by_wire: { needsRows: true, run: relayByWire },
  kafka_by_wire: { needsRows: false, run: kafkaByWire },
  postgres_journal_alone: { needsRows: true, run: journalAlone },
  postgres_plain_alone: { needsRows: true, run: plainPostgres },
};

export async function measureLimits(
  reporter: Reporter,
  { rows, rounds }: { rows: number; rounds: number },
): Promise<void> {
  const names = Object.keys(contenders);
  // Whoever comes first in a process runs on cold code; without this it was the relay, at two thirds of its rate.
  await runOnce('relay_without_temporal', rows);
  for (let round = 1; round <= rounds; round += 1) {
    for (const name of round % 2 === 1 ? names : names.toReversed()) {
      reporter.emit(name, await runOnce(name, rows), 'rows/s', { rows, round });
    }
  }
  reporter.compare(
    'drain_1_shards',
    'relay_without_temporal',
    'what Temporal leaves of it (above 1: nothing to see)',
  );
  reporter.compare('relay_without_temporal', 'loop_without_journal', 'what the journal leaves of it');
  reporter.compare('relay_without_temporal', 'kafka_alone', 'how close to Kafka');
  reporter.compare('kafka_by_wire', 'kafka_alone', 'what a protocol of our own brings in Kafka');
  reporter.compare('relay_by_wire', 'relay_without_temporal', 'and in the whole relay');
  reporter.compare('relay_without_temporal', 'postgres_journal_alone', 'how close to Postgres');
  reporter.compare('postgres_journal_alone', 'postgres_plain_alone', 'what the journal costs in Postgres');
}

/** In a database and a topic of its own. */
async function runOnce(name: string, rows: number): Promise<number> {
  const { needsRows, run } = contenders[name]!;
  await using database = await outboxDatabase(1);
  const topic = await newTopic();
  if (needsRows) await fillOutbox(database.client, topic, rows);
  // Awaited here: the database goes when this function returns.
  return await run({ database, topic, rows });
}

/** The relay itself, in this process. */
export async function relayAlone({ database, rows }: Setting): Promise<number> {
  await using relay = startRelay(database, 0);
  // The relay ends by itself only with an error.
  await Promise.race([untilDelivered(database.client, rows), relay.done]);
  return publishedPerSecond(database.client);
}

/** What anyone would write first: claim, one Kafka transaction by the same guarded client, mark. Not exactly once. */
export async function plainLoop({ database, topic, rows }: Setting): Promise<number> {
  const publisher = openPublisher(database.deployment.id, 0);
  try {
    await publisher.initialise();
    await publisher.publish({ number: 1, batchId: randomUUID() }, []);
    return await timed(rows, async () => {
      for (let number = 2; ; number += 1) {
        const batch = await claimPlainly(database.client);
        if (batch.length === 0) return;
        const records = batch.map(({ id, key, value }) => record(topic, id, key, value));
        await publisher.publish({ number, batchId: randomUUID() }, records);
        await markPlainly(database.client, batch);
      }
    });
  } finally {
    await publisher.close();
  }
}

/** Transactions of 1,000 records by the same guarded client, without a database. */
function kafkaAlone(setting: Setting): Promise<number> {
  return publishAlone(openPublisher(setting.database.deployment.id, 0), setting);
}

/** The same transactions by a protocol of our own, see docs/decisions/0010-kafkajs-stays.md. */
function kafkaByWire(setting: Setting): Promise<number> {
  return publishAlone(wirePublisher(setting.database.deployment.id), setting);
}

const wirePublisher = (deploymentId: string) =>
  new WirePublisher(testStack().env().SA01_KAFKA_BOOTSTRAP_SERVERS!.split(','), deploymentId, 0);

/** The relay itself with that client. */
async function relayByWire({ database, rows }: Setting): Promise<number> {
  await using relay = startRelay(database, 0, {
    openPublisher: () => wirePublisher(database.deployment.id),
  });
  await Promise.race([untilDelivered(database.client, rows), relay.done]);
  return publishedPerSecond(database.client);
}

async function publishAlone(publisher: OutboxPublisher, { topic, rows }: Setting): Promise<number> {
  const value = JSON.stringify({ text: 'x'.repeat(PAYLOAD_BYTES) });
  const records = Array.from({ length: BATCH }, (_, n) =>
    record(topic, randomUUID(), `key-${n % KEYS}`, value),
  );
  try {
    await publisher.initialise();
    // The first one creates the topic.
    await publisher.publish({ number: 1, batchId: randomUUID() }, records);
    return await timed(rows, async () => {
      for (let sent = 0; sent < rows; sent += BATCH)
        await publisher.publish({ number: 2 + sent / BATCH, batchId: randomUUID() }, records);
    });
  } finally {
    await publisher.close();
  }
}

/** The relay's own statements, without Kafka between them. */
async function journalAlone({ database, rows }: Setting): Promise<number> {
  const client = await database.connect();
  const journal = await OutboxJournal.takeOver(client, 0, database.deployment, 'bench');
  return timed(rows, async () => {
    let { batch } = await journal.open(0, BATCH);
    while (batch) {
      const { number, batchId, records } = batch;
      const seqs = records.map(({ seq }) => seq);
      ({ batch } = (await journal.settleAndOpen({ number, batchId, seqs }, BATCH)).claim);
    }
  });
}

async function plainPostgres({ database, rows }: Setting): Promise<number> {
  return timed(rows, async () => {
    for (;;) {
      const batch = await claimPlainly(database.client);
      if (batch.length === 0) return;
      await markPlainly(database.client, batch);
    }
  });
}

interface PlainRow {
  id: string;
  key: string;
  value: string;
}

/** Bounded by rows only, blind to parked keys; by the same index, without which it would sort the table each time. */
async function claimPlainly(client: pg.ClientBase): Promise<PlainRow[]> {
  const { rows } = await client.query<PlainRow>({
    name: 'plain-claim',
    text: `SELECT id, partition_key AS key, payload::text AS value, headers::text AS headers
           FROM core_outboxmessage
           WHERE status = 'pending' AND abs(hashtextextended(coalesce(partition_key, id::text), 0) % 1) = 0
           ORDER BY relay_seq LIMIT ${BATCH}`,
  });
  return rows;
}

const markPlainly = (client: pg.ClientBase, batch: PlainRow[]) =>
  client.query({
    name: 'plain-mark',
    text: `UPDATE core_outboxmessage SET status = 'published', published_at = now() WHERE id = ANY($1::uuid[])`,
    values: [batch.map(({ id }) => id)],
  });

const record = (topic: string, id: string, key: string, value: string): OutboxRecord => ({
  seq: '0',
  id,
  topic,
  key,
  value,
  headers: { content_type: 'application/json', idempotency_key: id, message_id: id },
});

async function timed(rows: number, work: () => Promise<void>): Promise<number> {
  const started = performance.now();
  await work();
  return rows / ((performance.now() - started) / 1000);
}
