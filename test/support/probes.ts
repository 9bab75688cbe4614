import { pino } from 'pino';
import { probeBackups } from '../../src/database/backupProbe.ts';
import { probePostgres } from '../../src/database/probe.ts';
import type { ProbeResult } from '../../src/domain/health.ts';
import { probeKafka } from '../../src/kafka/probe.ts';
import { type ProbeTools, probeAll } from '../../src/probes/probe.ts';
import type { ProbeTarget } from '../../src/probes/target.ts';
import { connectionForProbes } from '../../src/probes/temporal.ts';
import { testStack } from './stack.ts';

/** The addresses of the run's services, or of others in their place. */
export interface Addresses {
  brokers: string[];
  temporal: string;
}

export function stackAddresses(): Addresses {
  const { SA01_KAFKA_BOOTSTRAP_SERVERS, SA01_TEMPORAL_HOST } = testStack().env();
  return { brokers: SA01_KAFKA_BOOTSTRAP_SERVERS!.split(','), temporal: SA01_TEMPORAL_HOST! };
}

/** The tools that a worker has. */
export function probeTools({ brokers, temporal } = stackAddresses()): ProbeTools & AsyncDisposable {
  const connection = connectionForProbes({ address: temporal });
  const logger = pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' });
  return {
    probePostgres,
    probeBackups,
    probeKafka: (signal) => probeKafka({ brokers, ssl: false, sasl: undefined }, logger, signal),
    temporal: connection,
    [Symbol.asyncDispose]: () => connection.close(),
  };
}

/** One probe of one target. */
export async function probeTarget(
  target: ProbeTarget,
  { limitSeconds = 10, addresses = stackAddresses() } = {},
): Promise<ProbeResult> {
  await using tools = probeTools(addresses);
  const { gateway } = await probeAll({ gateway: { target, limitSeconds } }, tools);
  return gateway!;
}

/** A target of each kind that needs the network, at `address` (host:port). */
export const targetsAt = (address: string): ProbeTarget[] => [
  { kind: 'postgres', url: `postgresql://somaagent:somaagent@${address}/somaagent_core` },
  { kind: 'kafka' },
  { kind: 'redis', url: `redis://${address}/0` },
  { kind: 'temporal' },
  { kind: 'somabrain', url: `http://${address}` },
  { kind: 'http', url: `http://${address}/health` },
  {
    kind: 's3',
    endpoint: `http://${address}`,
    bucket: 'somaagent',
    accessKeyId: 'somaagent',
    secretAccessKey: 'somaagent-secret',
  },
  { kind: 'redisStore', url: `redis://${address}/0` },
  {
    kind: 'backups',
    url: `postgresql://somaagent:somaagent@${address}/somaagent_core`,
    source: 'somaagent_core',
    maxAgeHours: 50,
  },
];
