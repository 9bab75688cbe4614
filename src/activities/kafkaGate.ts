import { readGate } from '../database/healthGates.ts';
import type { Queryable } from '../database/postgres.ts';

/**
 * What comes before a takeover while the health cycle holds Kafka's breaker open: a trial, because a takeover of a Kafka
 * that is away costs an epoch and a transaction in Postgres each time. Otherwise, and where the gate cannot be read,
 * nothing: the relays need no health cycle.
 * @throws OrchestratorError kafka_unavailable, if the trial fails
 */
export async function passKafkaGate(client: Queryable, tryKafka: () => Promise<void>): Promise<void> {
  const gate = await readGate(client, 'kafka').catch(() => undefined);
  if (gate?.open) await tryKafka();
}
