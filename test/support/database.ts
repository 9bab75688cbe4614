import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { type Deployment, settleDeployment } from '../../src/database/deployment.ts';
import { migrate } from '../../src/database/migrate.ts';
import { testStack } from './stack.ts';

export interface TestDatabase extends AsyncDisposable {
  url: string;
  /** A connection of the test's own. It does not survive a restart of Postgres; `connect` gives another. */
  client: pg.Client;
  connect(): Promise<pg.Client>;
}

/** A new, empty database on the run's Postgres, dropped with its connections at the end. */
export async function emptyDatabase(): Promise<TestDatabase> {
  const server = testStack().env().SA01_DATABASE_URL!;
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await once(server, `CREATE DATABASE ${name}`);
  const url = Object.assign(new URL(server), { pathname: `/${name}` }).href;
  const opened: pg.Client[] = [];
  const connect = async () => {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => {});
    await client.connect();
    opened.push(client);
    return client;
  };
  return {
    url,
    client: await connect(),
    connect,
    async [Symbol.asyncDispose]() {
      await Promise.allSettled(opened.map((client) => client.end()));
      await once(server, `DROP DATABASE ${name} WITH (FORCE)`);
    },
  };
}

/** A new database with this service's schema, set up for `shards` shards. */
export async function outboxDatabase(shards = 1): Promise<TestDatabase & { deployment: Deployment }> {
  const database = await emptyDatabase();
  await migrate(database.url);
  const deployment = await settleDeployment(database.client, shards);
  return Object.assign(database, { deployment });
}

async function once(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
