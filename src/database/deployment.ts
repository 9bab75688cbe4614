import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import { inTransaction, type Queryable } from './postgres.ts';

export interface Deployment {
  /** Made once for each database; part of every transactional id and consumer group. */
  id: string;
  outboxShards: number;
}

/** The shard of a row: by key, so that one relay owns a key's order; rows without a key spread by id. */
export const shardExpression = (shards: number): string =>
  `abs(hashtextextended(coalesce(partition_key, id::text), 0) % ${asInteger(shards)})`;

/** Shard counts are part of SQL text, because the partial index can only be used where the expression is the same. */
function asInteger(shards: number): number {
  if (!Number.isInteger(shards) || shards < 1) throw new RangeError(`${shards} is no number of shards`);
  return shards;
}

/**
 * Settles on the number of shards: the first worker's configuration is recorded, with the index and the journals that
 * it needs. A worker configured with another number must not run, because its keys would be in other shards.
 * @throws OrchestratorError shard_count_mismatch
 */
export async function settleDeployment(client: pg.ClientBase, wantedShards: number): Promise<Deployment> {
  return inTransaction(client, async () => {
    const { id, outbox_shards: recorded } = await readDeployment(client, 'FOR UPDATE');
    if (recorded !== null && recorded !== wantedShards) {
      throw new OrchestratorError(
        'shard_count_mismatch',
        `SA01_OUTBOX_SHARDS is ${wantedShards}, but this database was set up with ${recorded}: set it to ${recorded}`,
      );
    }
    if (recorded === null) await setUpShards(client, wantedShards);
    return { id, outboxShards: wantedShards };
  });
}

interface DeploymentRow {
  id: string;
  outbox_shards: number | null;
}

async function readDeployment(client: Queryable, lock: 'FOR UPDATE'): Promise<DeploymentRow> {
  const { rows } = await client.query<DeploymentRow>(
    `SELECT id, outbox_shards FROM orchestrator.deployment ${lock}`,
  );
  return rows[0]!;
}

/**
 * The index keeps the claim flat: it holds nothing but pending rows, each shard's in order, so a claim reads no more
 * rows than it returns, however many published ones are behind them.
 */
async function setUpShards(client: Queryable, shards: number): Promise<void> {
  await client.query('UPDATE orchestrator.deployment SET outbox_shards = $1', [shards]);
  // Writers queue up behind this request for the table: where it is held, give up soon and come again.
  await client.query(`SET LOCAL lock_timeout = '3s'`);
  await client.query(
    `CREATE INDEX orchestrator_outbox_pending_${asInteger(shards)}
     ON public.core_outboxmessage ((${shardExpression(shards)}), relay_seq) WHERE status = 'pending'`,
  );
  await client.query(
    `INSERT INTO orchestrator.outbox_journal (shard) SELECT generate_series(0, $1::int - 1)`,
    [shards],
  );
  await client.query(
    `INSERT INTO orchestrator.outbox_waiting (shard, waiting) SELECT generate_series(0, $1::int - 1), false`,
    [shards],
  );
}
