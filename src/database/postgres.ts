import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';

/** Anything a query can be sent through: a client, a pool, or a client inside the caller's transaction. */
export type Queryable = Pick<pg.ClientBase, 'query'>;

const CONNECT_TIMEOUT_MS = 5_000;
/** A server that vanished without a word (a cut network) is noticed by this bound on any statement. */
const STATEMENT_TIMEOUT_MS = 15_000;
const IDLE_IN_TRANSACTION_MS = 5_000;
const FAREWELL_MS = 2_000;

const connectionOptions = (databaseUrl: string, statementTimeoutMs: number): pg.ClientConfig => ({
  connectionString: databaseUrl,
  application_name: 'somaagent-orchestrator',
  connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  query_timeout: statementTimeoutMs,
  keepAlive: true,
  keepAliveInitialDelayMillis: 10_000,
});

/** A pool for short statements. An idle connection that breaks is dropped by the pool; the next query opens another. */
export function openPool(databaseUrl: string): pg.Pool {
  const pool = new pg.Pool({
    ...connectionOptions(databaseUrl, STATEMENT_TIMEOUT_MS),
    // For a host that freezes or vanishes inside a transaction: the server ends it, and nobody waits for its locks.
    statement_timeout: STATEMENT_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
    max: 10,
  });
  pool.on('error', () => {});
  return pool;
}

/**
 * A connection of one's own, for work that keeps state on it. A statement that has no answer after
 * `statementTimeoutMs` fails (0: never).
 * @throws OrchestratorError postgres_unavailable, postgres_refused
 */
export async function connect(
  databaseUrl: string,
  statementTimeoutMs = STATEMENT_TIMEOUT_MS,
): Promise<pg.Client> {
  const client = new pg.Client(connectionOptions(databaseUrl, statementTimeoutMs));
  // Without a listener a broken connection would end the process; whoever uses the client sees its queries fail.
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (error) {
    await client.end().catch(() => {});
    throw fromPostgres(error);
  }
}

/** SQLSTATEs of a server that is starting, stopping, full or busy with others; what has no SQLSTATE is the network. */
const OUTAGE = /^(08|53|57|58|40|25006|25P03|55P03)/;

/**
 * Tells an outage, which passes by itself, from the server's own no: another password, a missing right, a statement it
 * refuses. What pg does not throw (this service's own errors, a TypeError) is left as it is.
 */
export function fromPostgres(error: unknown): unknown {
  const thrownByPg =
    error instanceof Error && [Error, AggregateError, pg.DatabaseError].includes(error.constructor as never);
  if (!thrownByPg) return error;
  const reason = error instanceof AggregateError ? error.errors[0] : error;
  const code =
    reason instanceof pg.DatabaseError && !OUTAGE.test(reason.code ?? '')
      ? 'postgres_refused'
      : 'postgres_unavailable';
  return new OrchestratorError(code, reason instanceof Error ? reason.message : String(reason), {
    cause: error,
  });
}

/** Closes a connection. One whose peer has fallen silent never answers the farewell, so that is waited for briefly. */
export const disconnect = (client: pg.Client): Promise<void> => withinReason(client.end());

export async function withinReason(farewell: Promise<void>): Promise<void> {
  const timer = new AbortController();
  await Promise.race([
    farewell.catch(() => {}),
    delay(FAREWELL_MS, undefined, { signal: timer.signal }).catch(() => {}),
  ]);
  timer.abort();
}

/** Lends a connection of the pool. One on which something failed is not used again. */
export async function withClient<T>(pool: pg.Pool, work: (client: pg.ClientBase) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  // The pool listens to those at rest only; see connect.
  client.on('error', ignore);
  try {
    const result = await work(client);
    client.off('error', ignore);
    client.release();
    return result;
  } catch (error) {
    client.release(true);
    throw error;
  }
}

const ignore = () => {};

/** Runs `work` in one transaction: committed when it returns, rolled back when it throws. */
export async function inTransaction<T>(client: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN');
  try {
    const result = await work();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    // Not waited for: behind a statement that never answers it would not be answered either.
    client.query('ROLLBACK').catch(() => {});
    throw error;
  }
}
