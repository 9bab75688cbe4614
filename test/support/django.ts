import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { emptyDatabase, type TestDatabase } from './database.ts';
import { testStack } from './stack.ts';

const schema = readFileSync(path.join(import.meta.dirname, 'djangoSchema.sql'), 'utf8');

/** The roles of a platform that keeps its parts apart, all with the password `test`. */
export interface Roles {
  /** Owns the four tables. */
  owner: string;
  /** Reads and writes them, and has no other right. */
  neighbour: string;
  /** May create in the database and act for the owner; no superuser. */
  migrator: string;
}

export type DjangoDatabase = TestDatabase & {
  roles: Roles;
  /** The database's address for a role. */
  urlFor(role: string): string;
};

/** A new database whose four tables Django made before this service came. */
export async function djangoDatabase(): Promise<DjangoDatabase> {
  const suffix = randomUUID().slice(0, 8);
  const roles = {
    owner: `owner_${suffix}`,
    neighbour: `neighbour_${suffix}`,
    migrator: `migrator_${suffix}`,
  };
  const database = await emptyDatabase();
  await database.client.query(
    `${Object.values(roles)
      .map((role) => `CREATE ROLE ${role} LOGIN PASSWORD 'test';`)
      .join('\n')}
     GRANT ${roles.owner} TO ${roles.migrator};
     GRANT CREATE ON SCHEMA public TO ${roles.owner};
     DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO ${roles.migrator}', current_database()); END $$;
     SET ROLE ${roles.owner};
     ${schema}
     GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ${roles.neighbour};
     RESET ROLE;`,
  );
  return {
    ...database,
    roles,
    urlFor: (role) => Object.assign(new URL(database.url), { username: role, password: 'test' }).href,
    async [Symbol.asyncDispose]() {
      await database[Symbol.asyncDispose]();
      await dropRoles(roles);
    },
  };
}

/** Roles belong to the server, so they outlive the database unless they are dropped after it. */
async function dropRoles(roles: Roles): Promise<void> {
  const client = new pg.Client({ connectionString: testStack().env().SA01_DATABASE_URL });
  await client.connect();
  await client.query(`DROP ROLE ${Object.values(roles).join(', ')}`);
  await client.end();
}

/** COPY … FROM STDIN, as bulk loaders send it. */
export async function copyIn(client: pg.Client, statement: string, data: string): Promise<void> {
  const query = new pg.Query(statement);
  const handleCopyInResponse = (connection: CopyConnection) => {
    connection.sendCopyFromChunk(Buffer.from(data));
    connection.endCopyFrom();
  };
  await once(client.query(Object.assign(query, { handleCopyInResponse })), 'end');
}

/** What pg's connection can do and its types don't say. */
interface CopyConnection {
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
}
