import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type pg from 'pg';
import type { Deployment } from '../../src/database/deployment.ts';
import { claimQuery, FROM_THE_START } from '../../src/database/outboxClaim.ts';
import { OutboxFloor } from '../../src/database/outboxFloor.ts';
import { OutboxJournal } from '../../src/database/outboxJournal.ts';
import { Random } from '../faults/random.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, uniqueTopic } from '../support/kafka.ts';
import { countByStatus, insertRows, type Row } from '../support/outbox.ts';
import { startRelay } from '../support/relay.ts';
import { assertExactlyOnceInOrder } from '../support/sequences.ts';

const SHARD = 0;
const ALL = 1_000;
const topic = 'floor';

interface Claimed {
  seq: string;
  id: string;
  key: string | null;
}

/** A relay's connection and its floor, and what the relay does to rows, without Kafka. */
class Deliveries {
  readonly client: pg.Client;
  readonly floor: OutboxFloor;

  private constructor(client: pg.Client) {
    this.client = client;
    this.floor = new OutboxFloor(client, SHARD, 1);
  }

  static async on(database: TestDatabase & { deployment: Deployment }): Promise<Deliveries> {
    const client = await database.connect();
    await OutboxJournal.takeOver(client, SHARD, database.deployment, 'test');
    return new Deliveries(client);
  }

  async claim(limit = ALL, { seq, parked }: Pick<OutboxFloor, 'seq' | 'parked'> = this.floor) {
    const values = [SHARD, limit, seq, parked];
    const { rows } = await this.client.query<Claimed>(claimQuery(1), values);
    return rows;
  }

  /** Claims and gives the rows a status. */
  async deliver(limit = ALL, status = 'published'): Promise<Claimed[]> {
    const rows = await this.claim(limit);
    this.floor.passed(rows);
    await this.client.query('UPDATE core_outboxmessage SET status = $2 WHERE relay_seq = ANY($1::bigint[])', [
      rows.map(({ seq }) => seq),
      status,
    ]);
    return rows;
  }

  /** In one snapshot: what is claimed above the floor is what is claimed from the start. */
  async assertNothingMissed(): Promise<Claimed[]> {
    await this.client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const fromStart = await this.claim(ALL, { seq: FROM_THE_START, parked: [] });
    assert.deepEqual(await this.claim(), fromStart);
    await this.client.query('COMMIT');
    return fromStart;
  }
}

const insert = (client: pg.ClientBase, ...keys: (string | null)[]) =>
  insertRows(
    client,
    keys.map((key) => ({ topic, key })),
  );

async function begun(database: TestDatabase): Promise<pg.Client> {
  const client = await database.connect();
  await client.query('BEGIN');
  return client;
}

const isSet = ({ floor }: Deliveries) => floor.seq !== FROM_THE_START;

describe('The floor of the claims', () => {
  test('it rises to what was delivered, at once if nobody writes', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    await insert(database.client, 'a', 'b', null);
    const rows = await relay.deliver();
    await relay.floor.raise();
    assert.equal(relay.floor.seq, rows.at(-1)!.seq);
    await insert(database.client, 'a');
    assert.equal((await relay.assertNothingMissed()).length, 1);
  });

  for (const end of ['COMMIT', 'ROLLBACK']) {
    test(`it waits for a transaction that has a lower number, and rises after its ${end}`, async () => {
      await using database = await outboxDatabase(1);
      const relay = await Deliveries.on(database);
      const late = await begun(database);
      await insert(late, 'a');
      await insert(database.client, 'b');
      const [before] = await relay.deliver();
      await relay.floor.raise();
      await relay.floor.raise();
      assert.ok(!isSet(relay));

      // A writer that began later is not waited for.
      const later = await begun(database);
      await insert(later, 'c');
      await late.query(end);
      // The first row of the key goes before the second, though the second was committed by the time of the claim.
      await insert(database.client, 'a');
      await relay.floor.raise();
      const keys = (await relay.assertNothingMissed()).map(({ key }) => key);
      assert.deepEqual(keys, end === 'COMMIT' ? ['a', 'a'] : ['a']);
      assert.ok(isSet(relay));
      assert.equal(BigInt(relay.floor.seq) < BigInt(before!.seq), end === 'COMMIT');
      await relay.deliver();
      await relay.floor.raise();
      await later.query('COMMIT');
      assert.equal((await relay.assertNothingMissed()).length, 1);
    });
  }

  test('a transaction that only read, or wrote elsewhere, is not waited for', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    const reader = await begun(database);
    await reader.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM core_outboxmessage');
    const elsewhere = await begun(database);
    await elsewhere.query(
      `UPDATE orchestrator.deployment SET created_at = now(); SELECT FROM core_outboxmessage`,
    );
    await insert(database.client, 'a');
    const [row] = await relay.deliver();
    await relay.floor.raise();
    assert.equal(relay.floor.seq, row!.seq);
  });

  test('rows held back below it come as soon as the row that holds them back is parked no more', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    await insert(database.client, 'a');
    const [culprit] = await relay.deliver(ALL, 'failed');
    await insert(database.client, 'a', 'b', 'a');
    await relay.deliver();
    await relay.floor.raise();
    assert.deepEqual(relay.floor.parked, [culprit!.id]);
    assert.ok(BigInt(relay.floor.seq) > BigInt(culprit!.seq));
    assert.deepEqual(await relay.assertNothingMissed(), []);
    const releases = [`UPDATE core_outboxmessage SET status = 'pending'`, `DELETE FROM core_outboxmessage`];
    for (const [index, release] of releases.entries()) {
      await relay.client
        .query('SAVEPOINT release')
        .catch(() => relay.client.query('BEGIN; SAVEPOINT release'));
      await relay.client.query(`${release} WHERE id = $1`, [culprit!.id]);
      const keys = (await relay.claim()).map(({ key }) => key);
      assert.deepEqual(keys, index === 0 ? ['a', 'a', 'a'] : ['a', 'a']);
      await relay.client.query('ROLLBACK TO release');
    }
    await relay.client.query('ROLLBACK');
  });

  test('there is none while numbers are drawn out of order', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    await insert(database.client, 'a');
    await relay.deliver();
    await relay.floor.raise();
    assert.ok(isSet(relay));
    const cache = (size: number) =>
      database.client.query(`ALTER SEQUENCE core_outboxmessage_relay_seq_seq CACHE ${size}`);
    await cache(10);
    await insert(database.client, 'a');
    await relay.deliver();
    await relay.floor.raise();
    assert.ok(!isSet(relay));
  });

  test('with a snapshot pinned, a claim steps over what was delivered last and not over everything', async () => {
    await using database = await outboxDatabase(1);
    const relay = await Deliveries.on(database);
    const pinned = await begun(database);
    await pinned.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM core_outboxmessage');
    const rows = Array<string>(10_000).fill('a');
    await insert(database.client, ...rows);
    await relay.client.query('BEGIN');
    for (let delivered = 0; delivered < rows.length; ) delivered += (await relay.deliver(2_000)).length;
    await relay.client.query('COMMIT');
    await insert(database.client, 'b');

    const pages = async () => {
      const values = [SHARD, ALL, relay.floor.seq, relay.floor.parked];
      const plan = await relay.client.query(
        `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${claimQuery(1)}`,
        values,
      );
      const { 'Shared Hit Blocks': hit, 'Shared Read Blocks': read } = plan.rows[0]['QUERY PLAN'][0].Plan;
      return hit + read;
    };
    assert.ok((await pages()) > 200, 'without a floor it visits what was delivered');
    await relay.floor.raise();
    assert.ok((await pages()) < 20);
    assert.equal((await relay.assertNothingMissed()).length, 1);
  });
});

test("the journal's claims begin at its floor", async () => {
  await using database = await outboxDatabase(1);
  const client = await database.connect();
  const journal = await OutboxJournal.takeOver(client, SHARD, database.deployment, 'test');
  await insert(client, ...Array<string>(6_000).fill('a'));
  const floors: string[] = [];
  const send = client.query.bind(client) as (...args: unknown[]) => unknown;
  const record = (query: { name?: string; values: string[] }, ...rest: unknown[]) => {
    if (query.name === 'outbox-claim') floors.push(query.values[2]!);
    return send(query, ...rest);
  };
  client.query = record as typeof client.query;
  let { batch } = await journal.open(0, 2_000);
  const last: string[] = [];
  while (batch) {
    const seqs = batch.records.map(({ seq }) => seq);
    last.push(seqs.at(-1)!);
    ({ batch } = (await journal.settleAndOpen({ ...batch, seqs }, 2_000)).claim);
  }
  // Claimed in the commit that settles the batch before it, so the floor is one batch behind.
  assert.equal(floors.at(0), FROM_THE_START);
  assert.ok(last.includes(floors.at(-1)!), `${floors} of ${last}`);
});

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
    if (floor.parked.length > 0) this.seen.withParked += 1;
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
