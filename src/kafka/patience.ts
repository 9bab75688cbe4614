import { setTimeout as delay } from 'node:timers/promises';
import { OrchestratorError } from '../domain/errors.ts';

const INTERVAL_MS = 2;
const PATIENCE_MS = 10_000;

/**
 * Asks again every few milliseconds for what Kafka promises to have in a moment.
 * @throws OrchestratorError kafka_unavailable after ten seconds in vain
 */
export async function untilReady(what: string, isReady: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await isReady())) {
    if (Date.now() > deadline) {
      throw new OrchestratorError('kafka_unavailable', `waited ${PATIENCE_MS / 1000} s in vain for ${what}`);
    }
    await delay(INTERVAL_MS);
  }
}
