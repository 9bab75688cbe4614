import type pg from 'pg';
import { claimable, FROM_THE_START, MAX_PARKED, parkedUpTo, scan } from './outboxClaim.ts';

/** The floor is looked at again after so many rows: stepping over their index entries costs about what the look costs. */
const ROWS_BETWEEN_LOOKS = 5_000;
/** And after this time, if there were any rows: a slow stream adds up as well, and until then a floor may be out of use. */
const MS_BETWEEN_LOOKS = 250;

const NONE = '0';

/**
 * Where a shard's claims may begin: a claim of the rows above the floor returns what a claim from the start returns.
 *
 * Claims read the index of pending rows in order. Entries of delivered rows are usually gone from its beginning, but
 * while any old snapshot is open in the database, nothing can be removed, and each claim would step over all that was
 * delivered since. Rows that are held back are stepped over by each claim in any case. The floor spares both.
 *
 * Why no row is missed. Let S be the highest number that this relay has claimed. Numbers are drawn in ascending order,
 * so every row up to S had its number drawn before S was claimed. An INSERT draws it while its transaction holds a
 * ROW EXCLUSIVE lock on the table, and the lock goes after the commit has become visible. So, looking at the locks
 * after the claim: a row up to S can be seen by every later snapshot, will never be seen (rolled back), or belongs to
 * a transaction that holds the lock at this moment. When none of these holds the lock any more, nothing up to S is to
 * come. Then one snapshot is taken, and the floor is put below the first row that may be sent, at S at most. What is
 * left at or below the floor is delivered or dead, parked, or held back by a row that is parked, which has a lower
 * number and is below the floor as well. Parked rows can come back, by the relay or by others: so the floor comes with
 * what they are known by, and a claim heeds it only if its own snapshot shows the same ones parked. Otherwise it begins
 * at the start, until the floor is looked at again.
 *
 * Who puts an old row back by hand (`published` or `dead` to `pending`), writes relay_seq (OVERRIDING SYSTEM VALUE) or
 * sets the sequence back is not covered: such a row is found by the next run, which begins without a floor, within a
 * minute. While the sequence has a CACHE of more than 1 (numbers are then not drawn in order) there is no floor.
 */
export class OutboxFloor {
  /** The floor itself; it may be used only together with `parked`. */
  seq = FROM_THE_START;
  /** What the shard's parked rows at or below it are known by. */
  parked = NONE;
  private readonly client: pg.ClientBase;
  private readonly shard: number;
  private readonly shards: number;
  private highest = BigInt(FROM_THE_START);
  /** Up to this number no row is to come any more; undefined as long as none is known. */
  private settled: bigint | undefined;
  /** A number, and those who may still bring rows up to it. */
  private candidate: { seq: bigint; writers: Set<string> } | undefined;
  private rowsSinceLook = 0;
  private lookedAt = 0;
  private isDoubted = false;

  constructor(client: pg.ClientBase, shard: number, shards: number) {
    this.client = client;
    this.shard = shard;
    this.shards = shards;
  }

  /** Rows that were claimed, in order. */
  passed(rows: { seq: string }[]): void {
    const last = rows.at(-1);
    if (last && BigInt(last.seq) > this.highest) this.highest = BigInt(last.seq);
    this.rowsSinceLook += rows.length;
  }

  /** What is parked has changed: claims begin at the start, or step over what has come to be held back. */
  doubt(): void {
    this.isDoubted = true;
  }

  /** Looks if it is in doubt. Not inside of a transaction: the locks of the caller's own would be in the way. */
  async settleDoubt(): Promise<void> {
    if (this.isDoubted) await this.raise();
  }

  /** Looks if it is worth it, under the same condition. */
  async raiseWhenDue(): Promise<void> {
    const sinceLook = performance.now() - this.lookedAt;
    const due = this.rowsSinceLook >= ROWS_BETWEEN_LOOKS || sinceLook >= MS_BETWEEN_LOOKS;
    if (this.isDoubted || (this.rowsSinceLook > 0 && due)) await this.raise();
  }

  async raise(): Promise<void> {
    this.rowsSinceLook = 0;
    this.lookedAt = performance.now();
    this.isDoubted = false;
    await this.lookForWriters();
    await this.move();
  }

  /** Finds out up to which number no row is to come any more. */
  private async lookForWriters(): Promise<void> {
    const { highest } = this;
    const { rows } = await this.client.query<{ ascending: boolean; writers: string[]; prepared: boolean }>({
      name: 'outbox-writers',
      text: WRITERS,
    });
    const { ascending, writers, prepared } = rows[0]!;
    if (!ascending) {
      Object.assign(this, { settled: undefined, candidate: undefined });
      return;
    }
    // A prepared transaction may go by another name than before, so any of them may be one that was waited for.
    if (writers.length === 0 && !prepared) {
      Object.assign(this, { settled: highest, candidate: undefined });
      return;
    }
    const { candidate } = this;
    const over = !prepared && candidate && !writers.some((writer) => candidate.writers.has(writer));
    if (over) this.settled = candidate.seq;
    if (over || !candidate) this.candidate = { seq: highest, writers: new Set(writers) };
  }

  private async move(): Promise<void> {
    const none = { floor: FROM_THE_START, parked: NONE };
    const { floor, parked } = this.settled === undefined ? none : ((await this.lowest(this.settled)) ?? none);
    this.seq = floor;
    this.parked = parked;
  }

  private async lowest(settled: bigint): Promise<{ floor: string; parked: string } | undefined> {
    const { rows } = await this.client.query<{ floor: string; parked: string }>({
      name: 'outbox-floor',
      text: floorQuery(this.shards),
      values: [this.shard, settled, this.seq, this.parked],
    });
    return rows[0];
  }
}

/** Who may have rows of core_outboxmessage that nobody sees yet; and whether numbers are drawn in ascending order. */
const WRITERS = `
  SELECT seqcache = 1 AND seqincrement > 0 AS ascending,
    coalesce(array_agg(virtualtransaction) FILTER (WHERE mode IS NOT NULL), '{}') AS writers,
    coalesce(bool_or(pid IS NULL) FILTER (WHERE mode IS NOT NULL), false) AS prepared
  FROM pg_sequence
  LEFT JOIN pg_locks ON locktype = 'relation' AND relation = 'public.core_outboxmessage'::regclass
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode = 'RowExclusiveLock' AND granted
  WHERE seqrelid = pg_get_serial_sequence('public.core_outboxmessage', 'relay_seq')::regclass
  GROUP BY ascending`;

/** No row where too many are parked. $2 is the number that nothing is to come up to; $3 and $4 are the floor as it was. */
const floorQuery = (shards: number): string => `
  WITH ${scan(shards)}
  SELECT floor, ${parkedUpTo(shards, 'floor')} AS parked
  FROM (
    SELECT least($2::bigint, (
      SELECT relay_seq - 1 FROM public.core_outboxmessage AS message
      WHERE ${claimable(shards)} ORDER BY relay_seq LIMIT 1
    )) AS floor
  ) AS lowest
  WHERE (SELECT count(*) FROM (
    SELECT FROM public.core_outboxmessage WHERE status = 'failed' LIMIT ${MAX_PARKED + 1}) AS parked) <= ${MAX_PARKED}`;
