import { cancellationSignal } from '@temporalio/activity';
import type pg from 'pg';
import { recordHealth } from '../database/health.ts';
import { withClient } from '../database/postgres.ts';
import type { HealthNotice, HealthRecord } from '../domain/health.ts';
import { onPostgres, toFailure } from './failure.ts';
import { type HealthWebhook, postNotice } from './healthWebhook.ts';

export interface HealthRecordDependencies {
  pool: pg.Pool;
  /** Undefined: notices go to Kafka only. */
  webhook: HealthWebhook | undefined;
}

const WEBHOOK_LIMIT_MS = 10_000;

export function createHealthRecordActivities({ pool, webhook }: HealthRecordDependencies) {
  return {
    /**
     * Writes transitions, gates and notices, all of it or nothing; the relays bring the notices to Kafka. May be repeated.
     * @throws ApplicationFailure postgres_unavailable, postgres_refused, invalid_message
     */
    recordHealth: (record: HealthRecord): Promise<void> =>
      onPostgres(() => withClient(pool, (client) => recordHealth(client, record))),

    /**
     * Posts a notice to the webhook, within ten seconds. `off`: none is configured, so no other notice needs to be tried.
     * @throws ApplicationFailure webhook_unavailable, retryable; webhook_refused, not retryable
     */
    async sendHealthWebhook(notice: HealthNotice): Promise<'sent' | 'off'> {
      if (!webhook) return 'off';
      const signal = AbortSignal.any([cancellationSignal(), AbortSignal.timeout(WEBHOOK_LIMIT_MS)]);
      try {
        await postNotice(webhook, notice, signal);
        return 'sent';
      } catch (error) {
        throw toFailure(error);
      }
    },
  };
}

export type HealthRecordActivities = ReturnType<typeof createHealthRecordActivities>;
