// What a backup of a database needs of the database itself, besides pg_dump: a snapshot that both see, and the counts.
import pg from 'pg';
import { connect, disconnect, fromPostgres } from './postgres.ts';

/** Tables whose rows pg_dump writes: no views, nobody's temporary tables, none that an extension brings along. */
const DUMPED_TABLES = `
  SELECT c.oid, n.nspname AS schema, c.relname AS name,
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
      AND NOT row_security_active(c.oid) AS readable
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY n.nspname, c.relname`;

/** A dump may take hours: no limit of the server's may end the transaction that its snapshot lives in. */
const NO_LIMITS = `
  SELECT set_config('lock_timeout', '10min', true), set_config(name, '0', true) FROM pg_settings
  WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`;

interface Table {
  schema: string;
  name: string;
  readable: boolean;
}

/** A moment of a database, held until `release`. */
export interface DatabaseSnapshot {
  /** For pg_dump's `--snapshot`. */
  id: string;
  /** `16.4`, without what a distribution adds to it. */
  serverVersion: string;
  /** `schema.table` of those of which the role may not read all rows; a dump would fail at the first. */
  unreadable: string[];
  /** The rows of each table (`schema.table`) at that moment. Takes as long as reading them all. */
  countRows(): Promise<Record<string, number>>;
  release(): Promise<void>;
}

/**
 * Exports a snapshot and holds it. An abort cuts the connection.
 * @throws OrchestratorError postgres_unavailable, postgres_refused; so does `countRows`
 */
export async function holdSnapshot(url: string, signal: AbortSignal): Promise<DatabaseSnapshot> {
  const client = await connect(url, 0);
  const cut = () => void disconnect(client);
  signal.addEventListener('abort', cut, { once: true });
  const release = async () => {
    signal.removeEventListener('abort', cut);
    await disconnect(client);
  };
  try {
    signal.throwIfAborted();
    // As pg_dump does: a policy that hides rows makes a query fail instead of giving fewer.
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security = off');
    await client.query(NO_LIMITS);
    const { rows } = await client.query<{ id: string; version: string }>(
      "SELECT pg_export_snapshot() AS id, split_part(current_setting('server_version'), ' ', 1) AS version",
    );
    const { id, version } = rows[0]!;
    const tables = (await client.query<Table>(DUMPED_TABLES)).rows;
    const unreadable = tables.filter(({ readable }) => !readable).map(nameOf);
    return { id, serverVersion: version, unreadable, countRows: () => countTables(client, tables), release };
  } catch (error) {
    await release();
    throw fromPostgres(error);
  }
}

/** The rows of each table (`schema.table`) as they are now, all of one moment. Errors as in `holdSnapshot`. */
export async function countRows(url: string, signal: AbortSignal): Promise<Record<string, number>> {
  const snapshot = await holdSnapshot(url, signal);
  try {
    return await snapshot.countRows();
  } finally {
    await snapshot.release();
  }
}

/** Whether nobody has put a table, a function, a type or anything else into the database yet. Errors as above. */
export async function isEmptyDatabase(url: string): Promise<boolean> {
  const client = await connect(url);
  try {
    const { rows } = await client.query<{ empty: boolean }>(`
      SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = ANY (own))
        AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = ANY (own))
        AND NOT EXISTS (SELECT FROM pg_type WHERE typnamespace = ANY (own))
        AND own <@ ARRAY(SELECT oid FROM pg_namespace WHERE nspname = 'public') AS empty
      FROM (SELECT ARRAY(SELECT oid FROM pg_namespace
        WHERE nspname <> 'information_schema' AND nspname !~ '^pg_') AS own) AS schemas`);
    return rows[0]!.empty;
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    await disconnect(client);
  }
}

const nameOf = ({ schema, name }: Table): string => `${schema}.${name}`;

async function countTables(client: pg.Client, tables: Table[]): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  try {
    for (const table of tables) {
      const from = `${pg.escapeIdentifier(table.schema)}.${pg.escapeIdentifier(table.name)}`;
      const { rows } = await client.query<{ count: string }>(`SELECT count(*) FROM ONLY ${from}`);
      counts[nameOf(table)] = Number(rows[0]!.count);
    }
    return counts;
  } catch (error) {
    throw fromPostgres(error);
  }
}
