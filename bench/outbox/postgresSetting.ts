import pg from 'pg';
import { testStack } from '../../test/support/stack.ts';

/** Starts Postgres anew with a setting that it takes at its start only, and at the end as it was. */
export async function postgresSetting(name: string, value: string): Promise<AsyncDisposable> {
  await configure(`ALTER SYSTEM SET ${name} = ${pg.escapeLiteral(value)}`);
  return { [Symbol.asyncDispose]: () => configure(`ALTER SYSTEM RESET ${name}`) };
}

async function configure(statement: string): Promise<void> {
  const stack = testStack();
  const client = new pg.Client({ connectionString: stack.env().SA01_DATABASE_URL! });
  await client.connect();
  await client.query(statement);
  await client.end();
  await stack.stop(['postgres']);
  await stack.start(['postgres']);
}
