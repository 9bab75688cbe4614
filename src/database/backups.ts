import pg from 'pg';
import type { BackupAddress, BackupType } from '../domain/backupFacts.ts';
import type { BackupTimes } from '../domain/backupFreshness.ts';
import {
  asFound,
  type BackupRun,
  decideRetention,
  type RetentionDecision,
  type RetentionPolicy,
} from '../domain/backupRetention.ts';
import { attemptId, type BackupManifest, type CataloguedBackup } from '../domain/backups.ts';
import { OrchestratorError } from '../domain/errors.ts';
import { inTransaction, type Queryable, withClient } from './postgres.ts';

/** What a row says of a backup that has begun. */
export interface BegunBackup {
  id: string;
  idempotency_key: string;
  type: BackupType;
  source: string;
  destination: string;
  metadata: Record<string, unknown>;
  started_at: string;
  /** Of the last good one of the same source and destination, as it was read; in bytes. */
  lastGoodSize: number | null;
  /** This one, if it is verified already. */
  manifest: BackupManifest | null;
}

/** What of it goes into the manifest. */
export type NewBackup = Omit<BegunBackup, 'lastGoodSize' | 'manifest'>;

/**
 * Writes a backup's row, or finds the one that its idempotency key has already. One that is not verified begins anew
 * under its id, and is as old as this beginning.
 * @throws OrchestratorError backup_refused if the key belongs to a backup of something else, or to one that was removed
 */
export async function beginBackup(client: Queryable, backup: NewBackup): Promise<BegunBackup> {
  const { id, idempotency_key, type, source, destination, metadata, started_at } = backup;
  const { rows } = await client.query(
    `WITH begun AS (
       INSERT INTO orchestrator.backup AS backup
         (id, idempotency_key, type, source, destination, metadata, state, started_at)
       VALUES ($1, $2, $3, $4, $5, $6, 'running', $7)
       ON CONFLICT (idempotency_key) DO UPDATE SET
         state = CASE WHEN backup.state = 'verified' THEN 'verified' ELSE 'running' END,
         ended_at = CASE WHEN backup.state = 'verified' THEN backup.ended_at END,
         started_at = CASE WHEN backup.state = 'verified' THEN backup.started_at ELSE excluded.started_at END,
         metadata = CASE WHEN backup.state = 'verified' THEN backup.metadata ELSE excluded.metadata END
       WHERE (backup.type, backup.source, backup.destination) = (excluded.type, excluded.source, excluded.destination)
         AND backup.state NOT IN ('removing', 'removed')
       RETURNING *
     )
     SELECT id, idempotency_key, type, source, destination, metadata, started_at, manifest, (
       SELECT plain_size FROM orchestrator.backup AS good
       WHERE (good.type, good.source, good.destination) = (begun.type, begun.source, begun.destination)
         AND good.id <> begun.id AND good.plain_size IS NOT NULL
       ORDER BY good.started_at DESC LIMIT 1
     ) AS "lastGoodSize"
     FROM begun`,
    [id, idempotency_key, type, source, destination, JSON.stringify(metadata), started_at],
  );
  const [row] = rows;
  if (!row)
    throw new OrchestratorError(
      'backup_refused',
      `the key ${JSON.stringify(idempotency_key)} belongs to a backup of something else, to somewhere else, or to one that was removed: take another key`,
    );
  return { ...row, started_at: row.started_at.toISOString(), lastGoodSize: numberOf(row.lastGoodSize) };
}

/** pg hands bigint over as text. */
const numberOf = (text: string | null): number | null => (text === null ? null : Number(text));

/** The number of the backup's next try; those before it may no longer become the backup. */
export async function nextAttempt(client: Queryable, id: string): Promise<number> {
  const { rows } = await client.query<{ attempts: number }>(
    `UPDATE orchestrator.backup SET attempts = attempts + 1 WHERE id = $1 AND state = 'running' RETURNING attempts`,
    [id],
  );
  if (rows[0]) return rows[0].attempts;
  throw new OrchestratorError('backup_refused', `backup ${id} has ended`);
}

/** The places of all tries of a backup that came to nothing, for those who clean up; none of any other. */
export async function attemptsOf(client: Queryable, id: string): Promise<string[]> {
  const { rows } = await client.query<{ attempts: number }>(
    `SELECT attempts FROM orchestrator.backup WHERE id = $1 AND state IN ('failed', 'cancelled')`,
    [id],
  );
  return Array.from({ length: rows[0]?.attempts ?? 0 }, (_, index) => attemptId(id, index + 1));
}

/**
 * The try at `address` may become the backup: no other has begun since, and nobody has ended it. Until the transaction
 * ends nobody can; it may last as long as a manifest takes.
 * @throws OrchestratorError backup_refused
 */
export async function lockNewestAttempt(
  client: Queryable,
  id: string,
  address: BackupAddress,
): Promise<void> {
  await client.query(`SET LOCAL idle_in_transaction_session_timeout = '2min'`);
  const { rows } = await client.query<{ attempts: number; state: string }>(
    'SELECT attempts, state FROM orchestrator.backup WHERE id = $1 FOR UPDATE',
    [id],
  );
  const [row] = rows;
  if (row && attemptId(id, row.attempts) === address.id && ['running', 'verified'].includes(row.state))
    return;
  throw new OrchestratorError('backup_refused', `backup ${id}: another try than ${address.id} counts`);
}

/**
 * Writes that the backup exists; for one of which the catalogue knows nothing, too. One that is verified, or was, stays
 * as it is.
 */
export async function recordVerified(
  client: Queryable,
  manifest: BackupManifest,
  address: BackupAddress,
  hold: string | null = null,
): Promise<void> {
  const plainSize = manifest.content.files.reduce((sum, file) => sum + file.plainSize, 0);
  await client.query(
    `INSERT INTO orchestrator.backup AS backup
       (id, idempotency_key, type, source, destination, metadata, state, attempts, started_at, ended_at, address, size,
        plain_size, sha256, manifest, hold)
     VALUES ($1, $2, $3, $4, $5, $6, 'verified', $7, $8, $9, $10, $11, $12, $13, $14, $15)
     ON CONFLICT (id) DO UPDATE SET state = 'verified', ended_at = excluded.ended_at, address = excluded.address,
       size = excluded.size, plain_size = excluded.plain_size, sha256 = excluded.sha256, manifest = excluded.manifest,
       hold = excluded.hold, error = NULL
     WHERE backup.state IN ('running', 'failed', 'cancelled')`,
    [
      manifest.id,
      manifest.idempotency_key,
      manifest.type,
      manifest.source,
      manifest.destination,
      JSON.stringify(manifest.metadata ?? {}),
      Number(address.id.slice(manifest.id.length + 1)) || 1,
      manifest.started_at,
      manifest.finished_at,
      JSON.stringify(address),
      manifest.size,
      plainSize,
      manifest.sha256,
      JSON.stringify(manifest),
      hold,
    ],
  );
}

/** As `recordVerified`, for one that was found at its destination. False: its key is another backup's. */
export async function recordFound(...backup: Parameters<typeof recordVerified>): Promise<boolean> {
  try {
    await recordVerified(...backup);
    return true;
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === '23505') return false;
    throw error;
  }
}

/** Writes how a backup ended that came to nothing. One that is verified stays so. Returns whether it did. */
export async function recordEnded(
  client: Queryable,
  id: string,
  state: 'failed' | 'cancelled',
  error: string | null,
): Promise<boolean> {
  const { rowCount } = await client.query(
    `UPDATE orchestrator.backup SET state = $2, error = $3, ended_at = now()
     WHERE id = $1 AND state IN ('running', 'failed', 'cancelled')`,
    [id, state, error],
  );
  return rowCount === 1;
}

/** A verified backup: the one of this id, or the newest of this source. Undefined: there is none. */
export async function findBackup(
  client: Queryable,
  {
    id = null,
    type = null,
    source = null,
  }: { id?: string | null; type?: string | null; source?: string | null },
): Promise<CataloguedBackup | undefined> {
  const { rows } = await client.query<CataloguedBackup>(
    `SELECT id, type, source, destination, address, manifest->'content' AS content FROM orchestrator.backup
     WHERE state = 'verified' AND id = coalesce($1, id) AND type = coalesce($2, type) AND source = coalesce($3, source)
     ORDER BY started_at DESC LIMIT 1`,
    [id, type, source],
  );
  return rows[0];
}

/** @throws OrchestratorError invalid_input if there is no such backup */
export async function setHold(client: Queryable, id: string, hold: string | null): Promise<void> {
  const { rowCount } = await client.query(
    `UPDATE orchestrator.backup SET hold = $2 WHERE id = $1 AND state = 'verified'`,
    [id, hold],
  );
  if (rowCount === 0) throw new OrchestratorError('invalid_input', `there is no verified backup ${id}`);
}

/** All backups of one source at one destination. */
export type BackupGroup = Pick<CataloguedBackup, 'type' | 'source' | 'destination'>;

export async function readGroups(client: Queryable): Promise<BackupGroup[]> {
  const { rows } = await client.query<BackupGroup>(
    `SELECT DISTINCT type, source, destination FROM orchestrator.backup WHERE state = 'verified' ORDER BY 1, 2, 3`,
  );
  return rows;
}

/** As the catalogue knows them; `address` null: there is none yet. */
export async function readRuns(
  client: Queryable,
  group: BackupGroup,
): Promise<(BackupRun & { address: BackupAddress | null })[]> {
  const { rows } = await client.query(
    `SELECT id, started_at, state, hold, address FROM orchestrator.backup
     WHERE type = $1 AND source = $2 AND destination = $3 AND state NOT IN ('removing', 'removed')`,
    [group.type, group.source, group.destination],
  );
  return rows.map(({ started_at, ...row }) => ({ ...row, startedAt: started_at.getTime() }));
}

/**
 * Decides what retention removes, and takes it out of what counts, in one transaction: from then on nothing relies on it.
 * Returns the decisions, and all whose removal is still to be done, with those that an earlier one left. `found`: which
 * backups are at the destination, by id, with their holds there.
 */
export async function beginRemoval(
  pool: pg.Pool,
  group: BackupGroup,
  policy: RetentionPolicy,
  found: ReadonlyMap<string, string | null>,
): Promise<{ decisions: RetentionDecision[]; removing: { id: string; address: BackupAddress }[] }> {
  return withClient(pool, (client) =>
    inTransaction(client, async () => {
      // Two at once would decide about the same runs; a hold waits too, and then finds its backup gone or kept.
      await client.query('LOCK orchestrator.backup IN SHARE ROW EXCLUSIVE MODE');
      const decisions = decideRetention(asFound(await readRuns(client, group), found), policy);
      const ids = decisions.filter(({ keep }) => !keep).map(({ id }) => id);
      await client.query(`UPDATE orchestrator.backup SET state = 'removing' WHERE id = ANY($1)`, [ids]);
      const { rows } = await client.query<{ id: string; address: BackupAddress }>(
        `SELECT id, address FROM orchestrator.backup
         WHERE type = $1 AND source = $2 AND destination = $3 AND state = 'removing' ORDER BY started_at`,
        [group.type, group.source, group.destination],
      );
      return { decisions, removing: rows };
    }),
  );
}

export async function recordRemoved(client: Queryable, id: string): Promise<void> {
  await client.query(
    `UPDATE orchestrator.backup SET state = 'removed', removed_at = now() WHERE id = $1 AND state = 'removing'`,
    [id],
  );
}

/** What the catalogue says of each source and destination. */
export async function readBackupTimes(client: Queryable): Promise<BackupTimes[]> {
  const { rows } = await client.query(
    `SELECT groups.*, ended.*, good.*, restored.*, drill.*
     FROM (SELECT DISTINCT type, source, destination FROM orchestrator.backup) AS groups
     LEFT JOIN LATERAL (
       SELECT ended_at AS "lastEndedAt", state AS "lastState", error AS "lastError" FROM orchestrator.backup AS b
       WHERE (b.type, b.source, b.destination) = (groups.type, groups.source, groups.destination)
         AND state IN ('verified', 'failed', 'cancelled')
       ORDER BY started_at DESC LIMIT 1
     ) AS ended ON true
     LEFT JOIN LATERAL (
       SELECT ended_at AS "lastVerifiedAt", size, extract(epoch FROM ended_at - started_at)::float8 AS "durationSeconds"
       FROM orchestrator.backup AS b
       WHERE (b.type, b.source, b.destination) = (groups.type, groups.source, groups.destination) AND state = 'verified'
       ORDER BY started_at DESC LIMIT 1
     ) AS good ON true
     LEFT JOIN LATERAL (
       SELECT max(restored_at) AS "lastRestoredAt" FROM orchestrator.backup AS b
       WHERE (b.type, b.source, b.destination) = (groups.type, groups.source, groups.destination)
     ) AS restored ON true
     LEFT JOIN LATERAL (
       SELECT ended_at AS "lastDrillAt", passed AS "lastDrillPassed", error AS "lastDrillError" FROM orchestrator.restore_drill AS d
       -- A drill that found nothing has of these only what it asked for.
       WHERE (d.type IS NOT NULL OR d.source IS NOT NULL)
         AND coalesce(d.type, groups.type) = groups.type AND coalesce(d.source, groups.source) = groups.source
         AND coalesce(d.destination, groups.destination) = groups.destination
       ORDER BY ended_at DESC LIMIT 1
     ) AS drill ON true
     ORDER BY groups.type, groups.source, groups.destination`,
  );
  return rows.map(({ size, lastEndedAt, lastVerifiedAt, lastRestoredAt, lastDrillAt, ...row }) => ({
    ...row,
    size: numberOf(size),
    lastEndedAt: lastEndedAt?.getTime() ?? null,
    lastVerifiedAt: lastVerifiedAt?.getTime() ?? null,
    lastRestoredAt: lastRestoredAt?.getTime() ?? null,
    lastDrillAt: lastDrillAt?.getTime() ?? null,
  }));
}
