import { setTimeout as delay } from 'node:timers/promises';
import type { Kafka } from 'kafkajs';
import { OrchestratorError } from '../domain/errors.ts';
import { fromKafka } from './errors.ts';

const TRIAL_MS = 3_000;

/**
 * The cheapest way to learn that Kafka answers: a connection and a request, within three seconds.
 * @throws OrchestratorError kafka_unavailable
 */
export async function tryKafka(kafka: Kafka): Promise<void> {
  // Up to three brokers, where one of them is away.
  const admin = kafka.admin({ retry: { initialRetryTime: 100, retries: 2 } });
  const answer = admin.connect().then(() => admin.describeCluster());
  const late = new AbortController();
  const limit = delay(TRIAL_MS, undefined, { signal: late.signal }).then(() => {
    throw new OrchestratorError('kafka_unavailable', `no answer within ${TRIAL_MS / 1000} s`);
  });
  try {
    await Promise.race([answer, limit]);
  } catch (error) {
    throw fromKafka(error);
  } finally {
    late.abort();
    // When kafkajs has ended its attempts: a connection that came late would stay open otherwise.
    const close = () => admin.disconnect();
    answer.then(close, close).catch(() => {});
  }
}
