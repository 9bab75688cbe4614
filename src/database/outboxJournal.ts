import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import {
  type ComposedBatch,
  composeBatch,
  type OutboxRecord,
  type OutboxRow,
  type OutboxRowHead,
  type RejectedRow,
} from '../domain/outbox.ts';
import type { Journal, OutboxTotals } from '../domain/outboxTakeover.ts';
import { type Deployment, deploymentChanged, readDeployment, shardExpression } from './deployment.ts';
import { AMONG_SEQS, CLAIMING_SESSION, claimQuery, ROW_COLUMNS } from './outboxClaim.ts';
import { OutboxFloor } from './outboxFloor.ts';
import { type Culprit, countParked, lockDue, park, RETRY_PORTION, release } from './outboxParking.ts';
import { inTransaction } from './postgres.ts';

/** A batch that the journal holds as open: its rows are pending, and only this relay may send them. */
export interface OpenBatch {
  number: number;
  batchId: string;
  records: OutboxRecord[];
}

export interface Claim {
  /** Undefined when there was nothing to send. */
  batch: OpenBatch | undefined;
  /** Rows that were parked now, because no record can be made of them or their topic is known to refuse it. */
  rejected: RejectedRow[];
  /** How many of those had no attempt left and became dead letters. */
  dead: number;
}

/** What became of parked rows whose next attempt was due. */
export interface Retries {
  refused: RejectedRow[];
  /** How many of those had no attempt left and became dead letters. */
  dead: number;
  /** There may be others that are due. */
  more: boolean;
}

const NOTHING: Claim = { batch: undefined, rejected: [], dead: 0 };

/** Decides which of the claimed rows go into the batch and which are parked. */
export type Compose = (rows: OutboxRow[]) => ComposedBatch;

/** What a batch has to be known by to be settled; the rows behind it may be gone from memory. */
type SettledBatch = { number: number; batchId: string; seqs: string[] };

/**
 * One shard's journal in Postgres, as its owner sees it. Every write checks the epoch that `takeOver` raised, so a
 * relay that was replaced is refused here (`relay_fenced`), however late it wakes up.
 */
export class OutboxJournal {
  readonly shard: number;
  readonly epoch: string;
  private readonly client: pg.ClientBase;
  private readonly shards: number;
  private readonly floor: OutboxFloor;
  /** How claimed rows become a batch; the relay puts its knowledge of topics here. */
  compose: Compose = composeBatch;

  private constructor(client: pg.ClientBase, shard: number, shards: number, epoch: string) {
    this.client = client;
    this.shard = shard;
    this.shards = shards;
    this.epoch = epoch;
    this.floor = new OutboxFloor(client, shard, shards);
  }

  /**
   * Raises the shard's epoch: from here on its former owner can write nothing. Committed before it returns. Waits while
   * the number of shards is being changed, and is refused afterwards; not where it is the change itself (`held`, under
   * holdDeployment) that takes over.
   * @throws OrchestratorError unknown_shard, deployment_changed
   */
  static async takeOver(
    client: pg.ClientBase,
    shard: number,
    deployment: Deployment,
    owner: string,
    { held = false } = {},
  ) {
    const { id, outboxShards: shards } = deployment;
    await client.query(CLAIMING_SESSION);
    // A relay that freezes, or whose host vanishes, inside a transaction holds locks that its successor needs: Postgres
    // closes such a connection by itself.
    await client.query(`SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '10s'`);
    const { rows } = await client.query<{ epoch: string }>(
      `WITH deployment AS MATERIALIZED (
         SELECT 1 FROM orchestrator.deployment WHERE id = $3 AND outbox_shards = $4 ${held ? '' : 'FOR SHARE'}
       )
       UPDATE orchestrator.outbox_journal SET epoch = epoch + 1, owner = $2, taken_at = now()
       FROM deployment WHERE shard = $1 RETURNING epoch`,
      [shard, owner, id, shards],
    );
    const [taken] = rows;
    if (!taken) throw await refusal(client, shard, deployment);
    const journal = new OutboxJournal(client, shard, shards, taken.epoch);
    // A killed relay leaves the flag behind, and every insert would notify.
    await journal.setWaiting(false);
    return journal;
  }

  /** @throws OrchestratorError relay_fenced */
  async read(): Promise<Journal & { totals: OutboxTotals; settledAt: Date | null }> {
    const { rows } = await this.client.query<JournalRow>(
      `SELECT settled_number, settled_batch, settled_at, delivered_total, open_batch, open_seqs
       FROM orchestrator.outbox_journal WHERE shard = $1 AND epoch = $2`,
      [this.shard, this.epoch],
    );
    const row = rows[0];
    if (!row) throw this.fenced();
    const number = Number(row.settled_number);
    return {
      settled: { number, batchId: row.settled_batch },
      open:
        row.open_batch === null
          ? null
          : { number: number + 1, batchId: row.open_batch, seqs: row.open_seqs ?? [] },
      totals: { delivered: Number(row.delivered_total), batches: number },
      settledAt: row.settled_at,
    };
  }

  /** The open batch as its rows are now, to be sent again; without rows that somebody deleted or settled by hand. */
  async reload(open: SettledBatch): Promise<OpenBatch> {
    const { rows } = await this.client.query<OutboxRow>(
      `SELECT ${ROW_COLUMNS} FROM public.core_outboxmessage
       WHERE status = 'pending' AND ${shardExpression(this.shards)} = $1 AND relay_seq ${AMONG_SEQS}
       ORDER BY relay_seq`,
      [this.shard, open.seqs],
    );
    return { number: open.number, batchId: open.batchId, records: composeBatch(rows).records };
  }

  /** Opens a batch behind the settled one. Finding none writes nothing, so an idle shard may ask as often as it likes. */
  async open(settledNumber: number, limit: number): Promise<Claim> {
    const rows = await this.claim(limit);
    if (rows.length === 0) return NOTHING;
    const claim = await inTransaction(this.client, () =>
      this.advance({ from: settledNumber, settled: undefined, rows }),
    );
    await this.floor.settleDoubt();
    return claim;
  }

  /** Marks the batch's rows published and opens the next batch in the same commit, which halves the commits. */
  async settleAndOpen(batch: SettledBatch, limit: number): Promise<{ marked: number; claim: Claim }> {
    const step = await inTransaction(this.client, async () => {
      const marked = await this.markPublished(batch);
      const rows = await this.claim(limit);
      return {
        marked,
        claim: await this.advance({ from: batch.number - 1, settled: { ...batch, marked }, rows }),
      };
    });
    await this.floor.raiseWhenDue();
    return step;
  }

  /** Marks the batch's rows published, leaves none open, and returns how many rows there were to mark. */
  async settle(batch: SettledBatch): Promise<number> {
    return inTransaction(this.client, async () => {
      const marked = await this.markPublished(batch);
      await this.advance({ from: batch.number - 1, settled: { ...batch, marked }, rows: [] });
      return marked;
    });
  }

  /**
   * Forgets the open batch, which Kafka is known not to have: its rows are claimed anew, under the same number. Where
   * it came down to one record that Kafka refuses, that row is parked. Returns how many died of it.
   */
  async abandon(culprit?: Culprit): Promise<number> {
    return inTransaction(this.client, async () => {
      const { rowCount } = await this.client.query(
        `UPDATE orchestrator.outbox_journal SET open_batch = NULL, open_seqs = NULL WHERE shard = $1 AND epoch = $2`,
        [this.shard, this.epoch],
      );
      if (rowCount !== 1) throw this.fenced();
      return culprit ? this.park([culprit]) : 0;
    });
  }

  /**
   * Sees to a portion of the parked rows whose next attempt is due. Those that `judge` refuses stay where they are, at
   * the cost of an attempt: nothing waits behind them, and what the floor knows of them stays true. The others are put
   * back among the pending.
   */
  async retryDue(
    judge: (rows: OutboxRowHead[]) => { refused: RejectedRow[]; released: OutboxRowHead[] },
  ): Promise<Retries> {
    return inTransaction(this.client, async () => {
      const rows = await lockDue(this.client, this.shard, this.shards);
      const { refused, released } = judge(rows);
      await release(this.client, released);
      const dead = await park(this.client, refused, 'failed');
      if (released.length + dead > 0) this.floor.doubt();
      return { refused, dead, more: rows.length === RETRY_PORTION };
    });
  }

  /** How many rows of the shard are parked. */
  async countParked(): Promise<number> {
    return countParked(this.client, this.shard, this.shards);
  }

  /**
   * Tells writers (their trigger reads it) whether this shard's relay wants to be woken. Not worth an fsync. A relay that
   * was replaced sets nothing: for a shard that is gone nobody would ever take the flag down again.
   */
  async setWaiting(waiting: boolean): Promise<void> {
    await inTransaction(this.client, async () => {
      await this.client.query('SET LOCAL synchronous_commit = off');
      await this.client.query(
        `INSERT INTO orchestrator.outbox_waiting (shard, waiting)
         SELECT shard, $2 FROM orchestrator.outbox_journal WHERE shard = $1 AND epoch = $3 FOR KEY SHARE
         ON CONFLICT (shard) DO UPDATE SET waiting = EXCLUDED.waiting`,
        [this.shard, waiting, this.epoch],
      );
    });
  }

  private async claim(limit: number): Promise<OutboxRow[]> {
    const { rows } = await this.client.query<OutboxRow>({
      name: 'outbox-claim',
      text: claimQuery(this.shards),
      values: [this.shard, limit, this.floor.seq, this.floor.parked],
    });
    this.floor.passed(rows);
    return rows;
  }

  private async markPublished({ seqs }: SettledBatch): Promise<number> {
    const { rowCount } = await this.client.query({
      name: 'outbox-settle',
      text: `UPDATE public.core_outboxmessage SET status = 'published', published_at = now(), last_error = NULL
             WHERE status = 'pending' AND ${shardExpression(this.shards)} = $1 AND relay_seq ${AMONG_SEQS}`,
      values: [this.shard, seqs],
    });
    return rowCount ?? 0;
  }

  /** The journal's step from one state to the next, refused where the epoch or the number is not the expected one. */
  private async advance(step: Step): Promise<Claim> {
    const { from, settled, rows } = step;
    const { records, rejected } = this.compose(rows);
    const dead = await this.park(rejected);
    const number = (settled?.number ?? from) + 1;
    const batch = records.length > 0 ? { number, batchId: randomUUID(), records } : undefined;
    const { rowCount } = await this.client.query({
      name: 'outbox-advance',
      text: `UPDATE orchestrator.outbox_journal
             SET settled_number = $4, settled_batch = coalesce($5, settled_batch), delivered_total = delivered_total + $6,
                 settled_at = CASE WHEN $5::uuid IS NULL THEN settled_at ELSE now() END,
                 open_batch = $7, open_seqs = $8, opened_at = now()
             WHERE shard = $1 AND epoch = $2 AND settled_number = $3 AND open_batch IS NOT DISTINCT FROM $5`,
      values: [
        this.shard,
        this.epoch,
        from,
        number - 1,
        settled?.batchId,
        settled?.marked ?? 0,
        batch?.batchId,
        batch?.records.map(({ seq }) => seq),
      ],
    });
    if (rowCount !== 1) throw this.fenced();
    return { batch, rejected, dead };
  }

  private park(culprits: Culprit[]): Promise<number> {
    if (culprits.length > 0) this.floor.doubt();
    return park(this.client, culprits);
  }

  private fenced(): OrchestratorError {
    return new OrchestratorError(
      'relay_fenced',
      `another relay has taken over shard ${this.shard} since epoch ${this.epoch}`,
    );
  }
}

async function refusal(
  client: pg.ClientBase,
  shard: number,
  { id, outboxShards }: Deployment,
): Promise<OrchestratorError> {
  const now = await readDeployment(client);
  if (now?.id !== id || now.outboxShards !== outboxShards) return deploymentChanged(outboxShards, now);
  return new OrchestratorError(
    'unknown_shard',
    `shard ${shard} does not exist: there are 0 to ${outboxShards - 1}`,
  );
}

interface Step {
  /** The last settled number before this step. */
  from: number;
  settled: (SettledBatch & { marked: number }) | undefined;
  rows: OutboxRow[];
}

interface JournalRow {
  settled_number: string;
  settled_batch: string | null;
  settled_at: Date | null;
  delivered_total: string;
  open_batch: string | null;
  open_seqs: string[] | null;
}
