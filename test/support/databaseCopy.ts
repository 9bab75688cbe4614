import pg from 'pg';
import type { TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { testStack } from './stack.ts';

/**
 * A copy of the database as it is now, as a backup is. Postgres copies none that somebody is connected to, so all
 * connections end; the original's `client` is a new one afterwards.
 */
export async function copyDatabase(database: TestDatabase): Promise<{ url: string } & AsyncDisposable> {
  const server = new pg.Client({ connectionString: testStack().env().SA01_DATABASE_URL });
  await server.connect();
  const name = new URL(database.url).pathname.slice(1);
  const copy = `${name}_copy`;
  await server.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1', [name]);
  await eventually('the copy', () =>
    server
      .query(`CREATE DATABASE ${pg.escapeIdentifier(copy)} TEMPLATE ${pg.escapeIdentifier(name)}`)
      .then(() => true),
  );
  database.client = await database.connect();
  return {
    url: `${database.url}_copy`,
    async [Symbol.asyncDispose]() {
      await server.query(`DROP DATABASE ${pg.escapeIdentifier(copy)} WITH (FORCE)`);
      await server.end();
    },
  };
}
