import assert from 'node:assert/strict';
import { test } from 'node:test';
import type pg from 'pg';
import { Random } from '../faults/random.ts';
import { outboxDatabase } from '../support/database.ts';
import { begun, Deliveries, insert } from '../support/deliveries.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows, type Row } from '../support/outbox.ts';
import { startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder } from '../support/sequences.ts';

/** How often the floor rose, in what company, and how often a parked row was released. */
type Seen = Record<'raised' | 'besideWriters' | 'withParked' | 'released', number>;

/** Writers with transactions open over each other, a relay, and people, all one step after another, as a seed decides. */
class History {
  readonly relay: Deliveries;
  private readonly seen: Seen;
  private readonly people: pg.Client;
  private readonly writers: { client: pg.Client; open: boolean }[];
  private readonly random: Random;

  constructor(relay: Deliveries, clients: pg.Client[], random: Random, seen: Seen) {
    const [people, ...writers] = clients;
    this.relay = relay;
    this.seen = seen;
    this.people = people!;
    this.writers = writers.map((client) => ({ client, open: false }));
    this.random = random;
  }

  async step(): Promise<void> {
    const steps = [() => this.write(), () => this.deliver(), () => this.raise(), () => this.release()];
    await steps[[0, 0, 0, 0, 1, 1, 1, 2, 2, 3][this.random.between(0, 9)]!]!();
    await this.relay.assertNothingMissed();
  }

  async end(): Promise<void> {
    for (const writer of this.writers) if (writer.open) await writer.client.query('COMMIT');
    await this.people.query(`UPDATE core_outboxmessage SET status = 'dead' WHERE status = 'failed'`);
    while ((await this.relay.deliver()).length > 0) await this.relay.floor.raise();
  }

  private async write(): Promise<void> {
    const writer = this.random.oneOf(this.writers);
    if (writer.open && this.random.next() < 0.6) {
      await writer.client.query(this.random.next() < 0.2 ? 'ROLLBACK' : 'COMMIT');
      writer.open = false;
      return;
    }
    if (!writer.open) await writer.client.query('BEGIN');
    writer.open = true;
    await insert(writer.client, this.random.oneOf(['a', 'b', 'c', null]));
  }

  private async deliver(): Promise<void> {
    const parks = this.random.next() < 0.15;
    await this.relay.deliver(parks ? 1 : this.random.between(1, 8), parks ? 'failed' : 'published');
  }

  private async raise(): Promise<void> {
    const { floor } = this.relay;
    const before = floor.seq;
    await floor.raise();
    if (floor.seq === before) return;
    this.seen.raised += 1;
    if (this.writers.some(({ open }) => open)) this.seen.besideWriters += 1;
    if (floor.parked !== '0') this.seen.withParked += 1;
  }

  private async release(): Promise<void> {
    const { rowCount } = await this.people.query(
      `UPDATE core_outboxmessage SET status = $1
       WHERE id = (SELECT id FROM core_outboxmessage WHERE status = 'failed' ORDER BY relay_seq LIMIT 1)`,
      [this.random.oneOf(['pending', 'dead'])],
    );
    this.seen.released += rowCount ?? 0;
  }
}

test('over random histories, a claim above the floor is the claim from the start', async () => {
  const seen = { raised: 0, besideWriters: 0, withParked: 0, released: 0 };
  for (const seed of [1, 2, 3, 4]) {
    await using database = await outboxDatabase(1);
    const clients = await Promise.all(Array.from({ length: 4 }, () => database.connect()));
    const history = new History(await Deliveries.on(database), clients, new Random(seed), seen);
    for (let step = 0; step < 400; step += 1) {
      await history.step().catch((cause) => {
        throw new Error(`seed ${seed}, step ${step}`, { cause });
      });
    }
    await history.end();
    const { rows } = await database.client.query(
      `SELECT count(*)::int AS left FROM core_outboxmessage WHERE status NOT IN ('published', 'dead')`,
    );
    assert.equal(rows[0].left, 0);
  }
  const { raised, besideWriters, withParked, released } = seen;
  const rare = Math.min(raised / 2, besideWriters, withParked, released);
  assert.ok(rare > 4, `the histories were dull: ${JSON.stringify(seen)}`);
});

test('relays deliver past open transactions, and nothing of these is missed or out of order, with a snapshot pinned', async () => {
  await using database = await outboxDatabase(2);
  const streamed = uniqueTopic();
  await using reader = await readTopics([streamed]);
  await using _first = startRelay(database, 0);
  await using _second = startRelay(database, 1);
  const pinned = await begun(database);
  await pinned.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM core_outboxmessage');

  const random = new Random(5);
  const writers = await Promise.all(Array.from({ length: 5 }, () => database.connect()));
  const expected: Row[] = [];
  for (let round = 0; round < 6; round += 1) {
    const open: { client: pg.Client; rows: Row[] }[] = [];
    for (const [index, client] of writers.entries()) {
      const rows = Array.from({ length: 1_000 }, (_, n) => ({
        topic: streamed,
        key: `${index}-${n % 7}`,
        payload: { number: round * 1_000 + n },
      }));
      await client.query('BEGIN');
      await insertRows(client, rows);
      open.push({ client, rows });
    }
    // Each ends when what the one before it wrote is delivered: rows with lower numbers come behind higher ones.
    while (open.length > 0) {
      const [{ client, rows }] = open.splice(random.between(0, open.length - 1), 1) as [(typeof open)[0]];
      const commits = random.next() < 0.8;
      await client.query(commits ? 'COMMIT' : 'ROLLBACK');
      if (commits) expected.push(...rows);
      await eventually('what was committed to be delivered', async () => {
        return (await countByStatus(database.client)).published === expected.length;
      });
    }
  }
  await eventually('all records', () => reader.received.length >= expected.length);
  assertExactlyOnceInOrder(reader.received, expected);
});
