import { setTimeout as delay } from 'node:timers/promises';
import type { Kafka } from 'kafkajs';
import { OrchestratorError } from '../domain/errors.ts';
import { fromKafka } from './errors.ts';

const TRIAL_MS = 3_000;

/**
 * The cheapest way to learn that Kafka answers: a connection to one of the brokers and a request, within three seconds.
 * Where one of several brokers is away this may meet that one; the next trial meets another.
 * @throws OrchestratorError kafka_unavailable
 */
export async function tryKafka(kafka: Kafka): Promise<void> {
  const admin = kafka.admin({ retry: { retries: 0 } });
  const close = () => void admin.disconnect().catch(() => {});
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
    close();
    // Where a broker says nothing, kafkajs closes only ten seconds later; what came late is closed as well.
    answer.then(close, close);
  }
}
