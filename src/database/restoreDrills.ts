import type { BackupType } from '../domain/backupFacts.ts';
import type { DrillEvidence } from '../domain/backups.ts';
import type { Queryable } from './postgres.ts';

/** What is kept of a drill, also where there was nothing to restore. */
export interface DrillRecord {
  id: string;
  backup: string | null;
  type: BackupType | null;
  source: string | null;
  destination: string | null;
  startedAt: string;
  endedAt: string;
  passed: boolean;
  evidence: DrillEvidence | null;
  error: string | null;
}

/** Keeps the evidence of a drill; the same drill again changes nothing. */
export async function recordDrill(client: Queryable, drill: DrillRecord): Promise<void> {
  await client.query(
    `INSERT INTO orchestrator.restore_drill
       (id, backup, type, source, destination, started_at, ended_at, passed, evidence, error)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING`,
    [
      drill.id,
      drill.backup,
      drill.type,
      drill.source,
      drill.destination,
      drill.startedAt,
      drill.endedAt,
      drill.passed,
      drill.evidence && JSON.stringify(drill.evidence),
      drill.error,
    ],
  );
  if (drill.passed)
    await client.query('UPDATE orchestrator.backup SET restored_at = $2 WHERE id = $1', [
      drill.backup,
      drill.endedAt,
    ]);
}

const SCRATCH = /^restore_drill_(\d{10})_[0-9a-f]{8}$/;
/** No drill takes longer. */
export const SCRATCH_KEPT_MS = 86_400_000;

/** Says when it was made (`now` in milliseconds of the epoch) and for which drill (`own`, eight hex digits). */
export const scratchName = (now: number, own: string): string =>
  `restore_drill_${Math.floor(now / 1000)}_${own}`;

export const isScratchName = (name: string): boolean => SCRATCH.test(name);

/** In milliseconds of the epoch. */
export const scratchBegan = (name: string): number => Number(SCRATCH.exec(name)?.[1]) * 1000;

/** Makes an empty database for a drill on the server of `client`. */
export async function createScratch(client: Queryable, name: string): Promise<void> {
  // From template0: nothing that somebody put into template1 counts as restored.
  await client.query(`CREATE DATABASE ${checked(name)} TEMPLATE template0`);
}

export async function dropScratch(client: Queryable, name: string): Promise<void> {
  await client.query(`DROP DATABASE IF EXISTS ${checked(name)} WITH (FORCE)`);
}

/** A name is no parameter: only what this service made may stand in a statement, or be dropped. */
function checked(name: string): string {
  if (!isScratchName(name)) throw new TypeError(`${name} is no scratch database`);
  return name;
}

/** The scratch databases that are there. */
export async function scratchNames(client: Queryable): Promise<string[]> {
  const { rows } = await client.query<{ datname: string }>(
    `SELECT datname FROM pg_database WHERE starts_with(datname, 'restore_drill_')`,
  );
  return rows.map(({ datname }) => datname).filter(isScratchName);
}
