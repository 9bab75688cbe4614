import pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';

/** Anything a query can be sent through: a client, a pool, or a client inside the caller's transaction. */
export type Queryable = Pick<pg.ClientBase, 'query'>;

const CONNECT_TIMEOUT_MS = 5_000;
/** A peer that vanished without a word (a cut network) is noticed by keep-alive and by this bound on any statement. */
const STATEMENT_TIMEOUT_MS = 60_000;

const connectionOptions = (databaseUrl: string, statementTimeoutMs: number): pg.ClientConfig => ({
  connectionString: databaseUrl,
  application_name: 'somaagent-orchestrator',
  connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  query_timeout: statementTimeoutMs,
  keepAlive: true,
});

/** A pool for short statements. An idle connection that breaks is dropped by the pool; the next query opens another. */
export function openPool(databaseUrl: string): pg.Pool {
  const pool = new pg.Pool({ ...connectionOptions(databaseUrl, STATEMENT_TIMEOUT_MS), max: 10 });
  pool.on('error', () => {});
  return pool;
}

/**
 * A connection of one's own, for work that keeps state in the session. A statement that has no answer after
 * `statementTimeoutMs` fails (0: never).
 * @throws OrchestratorError postgres_unavailable
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
    throw postgresUnavailable(error);
  }
}

export function postgresUnavailable(cause: unknown): OrchestratorError {
  const reason = cause instanceof AggregateError ? cause.errors[0] : cause;
  return new OrchestratorError(
    'postgres_unavailable',
    reason instanceof Error ? reason.message : String(reason),
    {
      cause,
    },
  );
}

/** Runs `work` in one transaction: committed when it returns, rolled back when it throws. */
export async function inTransaction<T>(client: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN');
  try {
    const result = await work();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  }
}
