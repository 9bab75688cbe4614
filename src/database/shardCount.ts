// Changing the number of shards of a deployment that works meanwhile. Why it is safe in this order, and what a kill
// leaves behind at each step: docs/decisions/0008-changing-the-number-of-shards.md
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import { type Deployment, holdDeployment, pendingIndex, pendingIndexOn } from './deployment.ts';
import { inTransaction, type Queryable } from './postgres.ts';

const CHANGE_LOCK = 7_305_814_210;
/** What a killed command leaves in the server ends within this time. */
const LOCK_PATIENCE_MS = 10_000;
/** A command that freezes while it keeps takeovers waiting loses its transaction, and delivery goes on. */
const HOLD_TIMEOUT = '30s';

/**
 * Lets one command at a time change the number, on this connection until it closes.
 * @throws OrchestratorError command_refused
 */
export async function lockChange(client: Queryable): Promise<void> {
  // The server ends what a killed command began, be it an index, as soon as it sees that nobody waits for the answer.
  await client.query(`SET client_connection_check_interval = '1s'`);
  const deadline = Date.now() + LOCK_PATIENCE_MS;
  // Asked for and not waited for: an index that is built concurrently waits for every statement that is under way.
  while (!(await tryLock(client))) {
    if (Date.now() > deadline)
      throw new OrchestratorError('command_refused', 'the number of shards is being changed by another run');
    await delay(500);
  }
}

async function tryLock(client: Queryable): Promise<boolean> {
  const { rows } = await client.query('SELECT pg_try_advisory_lock($1) AS locked', [CHANGE_LOCK]);
  return rows[0].locked;
}

/** The index of pending rows for that number of shards, built while writers write. What a kill left of it is built anew. */
export async function buildPendingIndex(client: Queryable, shards: number): Promise<void> {
  const name = pendingIndex(shards);
  const { rows } = await client.query<{ valid: boolean }>(
    `SELECT indisvalid AS valid FROM pg_index WHERE indexrelid = to_regclass($1)`,
    [`public.${name}`],
  );
  if (rows[0]?.valid) return;
  if (rows[0]) await client.query(`DROP INDEX CONCURRENTLY public.${name}`);
  await client.query(`CREATE INDEX CONCURRENTLY ${name} ${pendingIndexOn(shards)}`);
}

/** Drops the indexes that belong to other numbers of shards. */
export async function dropOtherPendingIndexes(client: Queryable, shards: number): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT format('%I.%I', schemaname, indexname) AS name FROM pg_indexes
     WHERE schemaname = 'public' AND tablename = 'core_outboxmessage'
       AND indexname ~ '^orchestrator_outbox_pending_\\d+$' AND indexname <> $1`,
    [pendingIndex(shards)],
  );
  for (const { name } of rows) await client.query(`DROP INDEX CONCURRENTLY IF EXISTS ${name}`);
}

/**
 * Runs `closeOld` while no relay can take a shard over, and puts `shards` new journals in the place of the old ones. The
 * deployment gets a new id, so that no mark and no transactional id of the old shards means anything to the new ones;
 * the new epochs are above all old ones, so that no old relay can take a new journal for its own. All of it is one
 * transaction on `client`: killed or refused at any point, the old shards go on.
 * @param closeOld closes each old shard for good and returns the epochs under which it did, by shard
 * @throws OrchestratorError deployment_changed, relay_fenced, whatever `closeOld` throws
 */
export async function replaceShards(
  client: pg.ClientBase,
  deployment: Deployment,
  shards: number,
  closeOld: () => Promise<string[]>,
): Promise<void> {
  await inTransaction(client, async () => {
    await client.query(
      `SET LOCAL idle_in_transaction_session_timeout = '${HOLD_TIMEOUT}'; SET LOCAL lock_timeout = '10s'`,
    );
    await holdDeployment(client, deployment);
    const epochs = await closeOld();
    const { rows: old } = await client.query<OldJournal>(
      `DELETE FROM orchestrator.outbox_journal
       RETURNING shard, epoch, delivered_total AS delivered, open_batch IS NOT NULL AS open`,
    );
    const closed = old.every(({ shard, epoch, open }) => epoch === epochs[shard] && !open);
    if (!closed || old.length !== epochs.length)
      throw new OrchestratorError('relay_fenced', 'somebody else has taken over a shard meanwhile');
    await insertJournals(client, shards, old);
    await client.query('UPDATE orchestrator.deployment SET id = gen_random_uuid(), outbox_shards = $1', [
      shards,
    ]);
  });
}

interface OldJournal {
  shard: number;
  /** 64 bits wide, like the count. */
  epoch: string;
  delivered: string;
  open: boolean;
}

/** What was delivered so far is counted on in shard 0: the sum over the shards stays what it is. */
async function insertJournals(client: Queryable, shards: number, old: OldJournal[]): Promise<void> {
  const epoch = old.reduce(
    (most, journal) => (BigInt(journal.epoch) > most ? BigInt(journal.epoch) : most),
    0n,
  );
  const delivered = old.reduce((sum, journal) => sum + BigInt(journal.delivered), 0n);
  await client.query(
    `INSERT INTO orchestrator.outbox_journal (shard, epoch, delivered_total)
     SELECT shard, $2::bigint + 1, CASE shard WHEN 0 THEN $3::bigint ELSE 0 END
     FROM generate_series(0, $1::int - 1) AS shard`,
    [shards, String(epoch), String(delivered)],
  );
  await client.query('DELETE FROM orchestrator.outbox_waiting');
  await client.query(
    `INSERT INTO orchestrator.outbox_waiting (shard, waiting) SELECT generate_series(0, $1::int - 1), false`,
    [shards],
  );
}
