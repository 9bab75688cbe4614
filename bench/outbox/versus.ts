// This relay, the raw loop and Debezium side by side: the same rows, the same services, the same reader, in turn.
import type { Reporter } from '../report.ts';
import { Connect } from './debezium/connect.ts';
import { postgresSetting } from './postgresSetting.ts';
import { measureDrains, type VersusDrainPlan } from './versusDrain.ts';
import { measureLatencies, type VersusLatencyPlan } from './versusLatency.ts';

export interface VersusPlan {
  drain: VersusDrainPlan;
  latency: VersusLatencyPlan;
}

export async function measureVersus(reporter: Reporter, { drain, latency }: VersusPlan): Promise<void> {
  // Debezium needs it; it is the same for all, as a restart between turns would empty Postgres's caches.
  await using _logical = await postgresSetting('wal_level', 'logical');
  await using connect = await Connect.start();
  await measureDrains(reporter, connect, drain);
  await measureLatencies(reporter, connect, latency);
}
