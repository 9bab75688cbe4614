import path from 'node:path';
import { runner } from 'node-pg-migrate';
import pg from 'pg';
import { OrchestratorError } from '../domain/errors.ts';
import { connect, disconnect, fromPostgres, type Queryable } from './postgres.ts';

/** Any number of workers may start at once: one migrates, the others wait for this advisory lock and find it done. */
const MIGRATION_LOCK = 7_305_814_209;

const migrationsDirectory = path.join(import.meta.dirname, 'migrations');

/**
 * Brings the schema up to date and returns the names of the migrations that ran now. Each runs in a transaction of its
 * own, so one that fails leaves no half of itself behind.
 * @throws OrchestratorError postgres_unavailable, postgres_refused
 */
export async function migrate(databaseUrl: string): Promise<string[]> {
  const client = await connect(databaseUrl, 0);
  try {
    await client.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const applied = await runner({
      dbClient: client,
      dir: migrationsDirectory,
      direction: 'up',
      migrationsSchema: 'orchestrator',
      // A role without CREATE on the database may not even say IF NOT EXISTS.
      createMigrationsSchema: !(await hasSchema(client)),
      migrationsTable: 'migration',
      // Its own lock gives up where another run holds it; ours waits.
      noLock: true,
      singleTransaction: false,
      log: () => {},
    });
    return applied.map(({ name }) => name);
  } catch (error) {
    throw await judged(client, error);
  } finally {
    await disconnect(client);
  }
}

/** The runner wraps some of the server's answers in plain errors. A server that still talks to us has said no. */
async function judged(client: Queryable, error: unknown): Promise<unknown> {
  const judgement = fromPostgres(error);
  if (error instanceof pg.DatabaseError || !(judgement instanceof OrchestratorError)) return judgement;
  const answers = await client.query('ROLLBACK').then(
    () => true,
    () => false,
  );
  // Its message goes on with a stack trace.
  const [message] = judgement.message.split('\n') as [string];
  return answers ? new OrchestratorError('postgres_refused', message, { cause: error }) : judgement;
}

async function hasSchema(client: Queryable): Promise<boolean> {
  const { rows } = await client.query(`SELECT to_regnamespace('orchestrator') IS NOT NULL AS found`);
  return rows[0].found;
}
