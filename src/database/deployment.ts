import type pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import { inTransaction, type Queryable } from './postgres.ts';

export interface Deployment {
  /** Made once for each database; part of every transactional id and consumer group. */
  id: string;
  outboxShards: number;
}

/** What a database gets whose first worker names no number. Many small transactions cost more than they bring. */
const DEFAULT_OUTBOX_SHARDS = 2;
export const MAX_OUTBOX_SHARDS = 64;

/** The shard of a row: by key, so that one relay owns a key's order; rows without a key spread by id. */
export const shardExpression = (shards: number): string =>
  `abs(hashtextextended(coalesce(partition_key, id::text), 0) % ${asInteger(shards)})`;

/** Shard counts are part of SQL text, because the partial index can only be used where the expression is the same. */
function asInteger(shards: number): number {
  if (!Number.isInteger(shards) || shards < 1) throw new RangeError(`${shards} is no number of shards`);
  return shards;
}

/**
 * Settles on the number of shards: what the first worker wants is recorded, with the index and the journals that it
 * needs. A worker configured with another number must not run, because its keys would be in other shards; one that
 * wants no number (undefined) takes the recorded one.
 * @throws OrchestratorError shard_count_mismatch
 */
export async function settleDeployment(
  client: pg.ClientBase,
  wantedShards: number | undefined,
): Promise<Deployment> {
  return inTransaction(client, async () => {
    const { id, outboxShards: recorded } = await read(client, 'FOR UPDATE');
    const outboxShards = recorded ?? wantedShards ?? DEFAULT_OUTBOX_SHARDS;
    if (wantedShards !== undefined && wantedShards !== outboxShards) {
      throw new OrchestratorError(
        'shard_count_mismatch',
        `SA01_OUTBOX_SHARDS is ${wantedShards}, but this database was set up with ${recorded}: unset it, or change the number by \`npm run outbox -- shards ${wantedShards}\``,
      );
    }
    if (recorded === null) await setUpShards(client, outboxShards);
    return { id, outboxShards };
  });
}

/** The deployment as it is now; undefined before the first worker, or `npm run migrate`, has set it up. */
export async function readDeployment(client: Queryable): Promise<Deployment | undefined> {
  const { rows } = await client.query(`SELECT to_regclass('orchestrator.deployment') IS NOT NULL AS found`);
  if (!rows[0].found) return undefined;
  const { id, outboxShards } = await read(client, '');
  return outboxShards === null ? undefined : { id, outboxShards };
}

type DeploymentRow = Omit<Deployment, 'outboxShards'> & { outboxShards: number | null };

async function read(client: Queryable, lock: '' | 'FOR UPDATE'): Promise<DeploymentRow> {
  const { rows } = await client.query<DeploymentRow>(
    `SELECT id, outbox_shards AS "outboxShards" FROM orchestrator.deployment ${lock}`,
  );
  return rows[0]!;
}

/**
 * Keeps every takeover of this deployment's shards waiting until the caller's transaction ends: a relay takes over
 * under a share lock of the same row.
 * @throws OrchestratorError deployment_changed
 */
export async function holdDeployment(client: Queryable, { id, outboxShards }: Deployment): Promise<void> {
  const now = await read(client, 'FOR UPDATE');
  if (now.id !== id || now.outboxShards !== outboxShards) throw deploymentChanged(outboxShards, now);
}

/** What a relay, a worker or a command is told that was started for a deployment which is no more. */
export function deploymentChanged(
  shards: number,
  now: { outboxShards: number | null } | undefined,
): OrchestratorError {
  const change =
    now?.outboxShards === shards
      ? 'the deployment has another id'
      : `there are ${now?.outboxShards ?? 'no'} shards`;
  return new OrchestratorError('deployment_changed', `${change} since this one was started for ${shards}`);
}

export const pendingIndex = (shards: number): string => `orchestrator_outbox_pending_${asInteger(shards)}`;

/** The rest of CREATE INDEX, behind the index's name. */
export const pendingIndexOn = (shards: number): string =>
  `ON public.core_outboxmessage ((${shardExpression(shards)}), relay_seq) WHERE status = 'pending'`;

/**
 * The index keeps the claim flat: it holds nothing but pending rows, each shard's in order, so a claim reads no more
 * rows than it returns, however many published ones are behind them.
 */
async function setUpShards(client: Queryable, shards: number): Promise<void> {
  await client.query('UPDATE orchestrator.deployment SET outbox_shards = $1', [shards]);
  // Writers queue up behind this request for the table: where it is held, give up soon and come again.
  await client.query(`SET LOCAL lock_timeout = '3s'`);
  await client.query(`CREATE INDEX ${pendingIndex(shards)} ${pendingIndexOn(shards)}`);
  await client.query(
    `INSERT INTO orchestrator.outbox_journal (shard) SELECT generate_series(0, $1::int - 1)`,
    [shards],
  );
  await client.query(
    `INSERT INTO orchestrator.outbox_waiting (shard, waiting) SELECT generate_series(0, $1::int - 1), false`,
    [shards],
  );
}
