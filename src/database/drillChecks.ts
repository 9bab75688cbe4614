// Questions that a person wants a restored database to answer with yes.
import pg from 'pg';
import type { CheckOutcome, DrillCheck } from '../domain/backups.ts';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import { connect, disconnect, fromPostgres } from './postgres.ts';

/** What one check may take. */
const CHECK_TIMEOUT_MS = 300_000;
/** It took too long, it tried to write: what elsewhere says that the server is impaired. */
const NOT_PASSED = ['57014', '25006'];

/**
 * Runs the checks one after another in the database of `url`, which they can only read. A check passes if its SQL gives
 * one row with one value, and that is true; what Postgres refuses, and what takes longer than `timeoutMs`, does not pass.
 * An abort cuts the connection.
 * @throws OrchestratorError postgres_unavailable, postgres_refused: the checks say nothing then
 */
export async function runDrillChecks(
  url: string,
  checks: readonly DrillCheck[],
  signal: AbortSignal,
  timeoutMs = CHECK_TIMEOUT_MS,
): Promise<CheckOutcome[]> {
  if (checks.length === 0) return [];
  const client = await connect(url, 0);
  const cut = () => void disconnect(client);
  signal.addEventListener('abort', cut, { once: true });
  try {
    signal.throwIfAborted();
    await client.query(
      `SELECT set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', $1, false)`,
      [String(timeoutMs)],
    );
    const outcomes: CheckOutcome[] = [];
    for (const { name, sql } of checks) {
      const error = await faultOf(client, sql);
      outcomes.push({ name, passed: error === null, error });
    }
    return outcomes;
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    signal.removeEventListener('abort', cut);
    await disconnect(client);
  }
}

/** Why a check does not pass; null if it does. */
async function faultOf(client: pg.Client, sql: string): Promise<string | null> {
  try {
    // Inside of a query it can be nothing but one, and with a parameter no second statement may follow.
    const text = `SELECT * FROM (\n${sql}\n) AS answer LIMIT $1`;
    const { rows, fields } = await client.query<unknown[]>({ text, values: [2], rowMode: 'array' });
    if (rows.length !== 1) return `gives ${rows.length === 0 ? 'no row' : 'several rows'}: expected one`;
    if (fields.length !== 1) return `gives ${fields.length} values: expected one`;
    const value = rows[0]![0];
    return value === true ? null : `gives ${shown(value)}: expected true`;
  } catch (error) {
    if (isOutage(error)) throw error;
    return describeError(error);
  }
}

function isOutage(error: unknown): boolean {
  if (error instanceof pg.DatabaseError && NOT_PASSED.includes(error.code ?? '')) return false;
  const told = fromPostgres(error);
  return !(told instanceof OrchestratorError && told.code === 'postgres_refused');
}

/** A text may be anybody's data. */
const shown = (value: unknown): string =>
  value === null || ['boolean', 'number'].includes(typeof value) ? String(value) : 'something else';
