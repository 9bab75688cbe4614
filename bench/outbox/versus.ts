// This relay, the raw loop and Debezium side by side: the same rows, the same services, the same reader, in turn.
import pg from 'pg';
import { testStack } from '../../test/support/stack.ts';
import type { Reporter } from '../report.ts';
import { Connect } from './debezium/connect.ts';
import { measureDrains, type VersusDrainPlan } from './versusDrain.ts';
import { measureLatencies, type VersusLatencyPlan } from './versusLatency.ts';

export interface VersusPlan {
  drain: VersusDrainPlan;
  latency: VersusLatencyPlan;
}

/** Starts Postgres anew with wal_level logical, and at the end as it was. */
export async function measureVersus(reporter: Reporter, { drain, latency }: VersusPlan): Promise<void> {
  await using undo = new AsyncDisposableStack();
  // Debezium needs it; it is the same for all, as a restart between turns would empty Postgres's caches.
  await configurePostgres(`ALTER SYSTEM SET wal_level = 'logical'`);
  undo.defer(() => configurePostgres('ALTER SYSTEM RESET wal_level'));
  const connect = undo.use(await Connect.start());
  await measureDrains(reporter, connect, drain);
  await measureLatencies(reporter, connect, latency);
}

async function configurePostgres(statement: string): Promise<void> {
  const stack = testStack();
  const client = new pg.Client({ connectionString: stack.env().SA01_DATABASE_URL! });
  await client.connect();
  await client.query(statement);
  await client.end();
  await stack.stop(['postgres']);
  await stack.start(['postgres']);
}
