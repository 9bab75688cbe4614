import net from 'node:net';
import { addAbortSignal } from 'node:stream';
import pg from 'pg';

/**
 * Whether Postgres takes connections and writes: a standby and a read-only server answer as well, but to work that
 * has to be written down they are as good as away. Over a connection of its own, not of a pool, that may have been
 * open since before the trouble; it is destroyed when `signal` aborts.
 * @throws what kept Postgres from answering, or that it takes no writes
 */
export const probePostgres = (databaseUrl: string, signal: AbortSignal): Promise<void> =>
  overOwnConnection(databaseUrl, signal, async (client) => {
    const { rows } = await client.query<{ standby: boolean; readonly: boolean }>(
      `SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only')::boolean AS readonly`,
    );
    if (rows[0]?.standby) throw new Error('takes no writes: it is in recovery, or a standby');
    if (rows[0]?.readonly) throw new Error('takes no writes: transactions are read-only');
  });

/** Lends a probe a connection that nobody else has had, and that ends with the probe or with `signal`. */
export async function overOwnConnection<T>(
  databaseUrl: string,
  signal: AbortSignal,
  ask: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'somaagent-orchestrator health',
    stream: () => addAbortSignal(signal, new net.Socket()),
  });
  // Without a listener a broken connection would end the process; whoever waits for an answer sees it fail.
  client.on('error', () => {});
  try {
    await client.connect();
    return await ask(client);
  } finally {
    // Not waited for: a server that has fallen silent never answers the farewell.
    client.end().catch(() => {});
  }
}
