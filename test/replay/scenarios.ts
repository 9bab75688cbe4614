// What the recorded histories go through: each workflow with activities that are steered to make it do all that it can.
import { ApplicationFailure } from '@temporalio/activity';
import { HEALTH_WORKFLOW_ID, type ProbeRequest, type ProbeResult } from '../../src/domain/health.ts';
import { COMPONENT_NAMES } from '../../src/domain/healthComponents.ts';
import type { HealthStatus } from '../../src/domain/healthStatus.ts';
import { type PurgeProgress, purgeStart } from '../../src/domain/maintenance.ts';
import { MEMORY_WORKFLOW_ID, type MemorySyncReport } from '../../src/domain/memories.ts';
import type { OutboxRelayReport } from '../../src/domain/outbox.ts';
import type { ParkedMessage } from '../../src/domain/outboxDelivery.ts';
import { eventually } from '../support/eventually.ts';
import { healthPlan } from '../support/healthPlan.ts';
import { beatUntilCancelled } from '../support/workflows.ts';
import { backup, backupCancelled, restoreDrill } from './backupScenarios.ts';
import { becomes, type Scenario } from './scenario.ts';
import { uploadAtOnce, uploadRetry } from './uploadScenarios.ts';

const report: OutboxRelayReport = {
  state: 'delivering',
  totals: { delivered: 10, batches: 1 },
  parked: 1,
  lastError: null,
};

/** Fails at first, stops the shard at the third run, and runs until it is cancelled after that. */
function outboxRelay(): Scenario {
  let runs = 0;
  return {
    type: 'outboxRelay',
    workflowId: 'outbox-relay-0',
    args: [{ historyLimit: 60 }],
    activities: {
      async relayOutbox() {
        runs += 1;
        if (runs === 1) throw ApplicationFailure.create({ type: 'kafka_unavailable', message: 'no broker' });
        if (runs === 2) return report;
        if (runs === 3) throw ApplicationFailure.nonRetryable('Kafka knows more', 'shard_stopped');
        await beatUntilCancelled();
        return report;
      },
      endRelay: async () => {},
    },
    async drive(handle) {
      await becomes(handle, 'paused');
      await handle.signal('resume');
      await eventually('the fourth run', () => runs === 4);
      await handle.signal('report', { ...report, state: 'waiting', lastError: 'kafka_unavailable: x' });
      await becomes(handle, 'waiting');
      await handle.signal('pause');
      await becomes(handle, 'paused');
    },
  };
}

const message: ParkedMessage = {
  id: '5c2e67f4-6a3b-4b0e-9a39-0f6c7d2b8a11',
  topic: 'conversation.inbound',
  key: 'customer-7',
  status: 'failed',
  attempts: 1,
  maxAttempts: 5,
  lastError: 'record_too_large: 2000000 bytes',
  nextRetryAt: '2026-11-23T12:00:00.000Z',
  secondsToRetry: 2,
};

/** Refused, hurried, under way, reported, and discarded. */
function outboxDelivery(): Scenario {
  let attempts = 0;
  return {
    type: 'outboxDelivery',
    workflowId: `outbox-delivery/${message.id}`,
    args: [message.id],
    activities: {
      readMessage: async () => message,
      hurryMessage: async () => {},
      discardMessage: async () => ({ ...message, status: 'dead' }),
      async deliverMessage() {
        attempts += 1;
        if (attempts === 1) {
          throw ApplicationFailure.create({
            type: 'message_rejected',
            message: 'refused',
            nextRetryDelay: '1h',
          });
        }
        await beatUntilCancelled();
        throw ApplicationFailure.create({ type: 'message_rejected', message: 'refused' });
      },
    },
    async drive(handle) {
      await eventually('the first attempt', () => attempts === 1);
      await handle.signal('retryNow');
      await eventually('the second attempt', () => attempts === 2);
      await handle.signal('report', { ...message, status: 'pending', nextRetryAt: null });
      await becomes(handle, 'trying');
      await handle.signal('discard');
      await handle.result();
    },
  };
}

/** A full page, one that is not full, and what was refused again. */
function deadLetterReplay(): Scenario {
  const page = (letters: number) => ({
    replays: Array.from({ length: letters }, (_, n) => ({
      letterId: `letter-${n}`,
      messageId: `message-${n}`,
    })),
    cursor: { seq: String(letters), createdAt: '2026-11-23 12:00:00+00', id: message.id },
  });
  let pages = 0;
  return {
    type: 'deadLetterReplay',
    workflowId: 'dead-letter-replay/recorded',
    args: [{ topic: message.topic, resolvedBy: 'ann', notes: 'mended' }],
    activities: {
      async putBackLetters() {
        pages += 1;
        return page(pages === 1 ? 100 : 3);
      },
      awaitReplays: async (replays: unknown[]) => ({ resolved: replays.length - 1, failed: 1, open: 0 }),
    },
    drive: (handle) => handle.result(),
  };
}

/** Two runs of the purge, and a sweep that waits for Postgres. */
function maintenance(): Scenario {
  const done: PurgeProgress = {
    ...purgeStart(),
    stage: 'done',
    purged: { published: 7, idempotency: 1, health: 2, uploads: 3 },
  };
  let runs = 0;
  let sweeps = 0;
  return {
    type: 'maintenance',
    workflowId: 'maintenance/recorded',
    args: [{ dryRun: false }],
    activities: {
      async purge() {
        runs += 1;
        if (runs === 1) throw ApplicationFailure.create({ type: 'postgres_unavailable', message: 'away' });
        return runs === 2 ? { ...purgeStart(), purged: { ...done.purged, health: 0, uploads: 0 } } : done;
      },
      async sweepUploads() {
        sweeps += 1;
        if (sweeps <= 3) throw ApplicationFailure.create({ type: 'postgres_unavailable', message: 'away' });
        return {
          swept: { stranded: 4, leftovers: 0, spool_files: 2 },
          unreachable: { s3: 'storage_unavailable: away' },
        };
      },
    },
    drive: (handle) => handle.result(),
  };
}

/** Its first tier may be down. */
const storage = (isS3Down: boolean): ProbeResult => ({
  outcome: 'up',
  seconds: 0.01,
  members: {
    s3: { outcome: isS3Down ? 'down' : 'up', seconds: 0.01 },
    filesystem: { outcome: 'up', seconds: 0.01 },
  },
});

/** An outage and its end, with Postgres and the webhook away for a while; pause, maintenance, and nothing unsettled. */
function healthCheckCycle(): Scenario {
  const plan = healthPlan({ rules: { softIntervalSeconds: 1, graceSeconds: 0 } });
  const down: ProbeResult = { outcome: 'down', seconds: 0.01, error: 'connect ECONNREFUSED' };
  let isKafkaDown = false;
  let written = 0;
  let sent = 0;
  return {
    type: 'healthCheckCycle',
    workflowId: HEALTH_WORKFLOW_ID,
    args: [{ intervalSeconds: 1 }],
    activities: {
      async probeComponents({ only, planVersion }: ProbeRequest) {
        const up: ProbeResult = { outcome: 'up', seconds: 0.01 };
        const results = (only ?? COMPONENT_NAMES).map((name) => [
          name,
          name === 'storage' ? storage(isKafkaDown) : name === 'kafka' && isKafkaDown ? down : up,
        ]);
        return {
          ...(planVersion === plan.version ? {} : { plan }),
          results: Object.fromEntries(results),
        };
      },
      async recordHealth() {
        written += 1;
        if (written === 1) throw ApplicationFailure.create({ type: 'postgres_unavailable', message: 'away' });
      },
      async sendHealthWebhook() {
        sent += 1;
        if (sent === 1) throw ApplicationFailure.create({ type: 'webhook_unavailable', message: 'away' });
        return sent === 2 ? 'sent' : 'off';
      },
    },
    async drive(handle) {
      const level = async () => (await handle.query<HealthStatus>('status')).overall_level;
      await becomes(handle, 'checking');
      await handle.signal('pause');
      await becomes(handle, 'paused');
      await handle.signal('resume');
      await handle.signal('maintenance', { component: 'redis', until: '2100-01-01T00:00:00Z' });
      isKafkaDown = true;
      await handle.signal('checkNow');
      await eventually('the outage', async () => (await level()) === 'critical');
      await handle.signal('maintenance', { component: 'redis', until: null });
      isKafkaDown = false;
      await eventually('the recovery', async () => (await level()) === 'none');
      await eventually('the notices', () => written >= 3 && sent >= 3);
    },
  };
}

const memoryReport: MemorySyncReport = {
  state: 'idle',
  counts: {
    pending: 0,
    oldest_seconds: 0,
    synced_total: 10,
    dead_total: 1,
    synced_per_second: 0,
    tenants: [{ tenant: 'acme', pending: 1 }],
  },
  lastError: null,
};

/** Fails at first, runs to its end, and until it is cancelled after that; syncNow, and a report of an outage. */
function memorySync(): Scenario {
  let runs = 0;
  let hurried = 0;
  return {
    type: 'memorySync',
    workflowId: MEMORY_WORKFLOW_ID,
    args: [{ historyLimit: 60 }],
    activities: {
      async syncMemories() {
        runs += 1;
        if (runs === 1)
          throw ApplicationFailure.create({ type: 'postgres_unavailable', message: 'no answer' });
        if (runs > 2) await beatUntilCancelled();
        return memoryReport;
      },
      async hurryMemories() {
        hurried += 1;
      },
    },
    async drive(handle) {
      await eventually('the third run', () => runs === 3);
      await handle.signal('report', {
        ...memoryReport,
        state: 'waiting',
        lastError: 'SomaBrain answers 503',
      });
      await becomes(handle, 'waiting');
      await handle.signal('syncNow');
      await eventually('the hint', () => hurried === 1);
      await handle.signal('pause');
      await becomes(handle, 'paused');
      await handle.signal('syncNow');
      await handle.signal('resume');
      await eventually('the fourth run', () => runs === 4);
      await handle.signal('pause');
      await becomes(handle, 'paused');
    },
  };
}

export const scenarios: Record<string, () => Scenario> = {
  backup,
  'backup-cancelled': backupCancelled,
  'restore-drill': restoreDrill([]),
  'restore-drill-failed': restoreDrill(['public.notes: 3 backed up, 2 restored']),
  'upload-retry': uploadRetry,
  'upload-at-once': uploadAtOnce,
  'memory-sync': memorySync,
  'outbox-relay': outboxRelay,
  'outbox-delivery': outboxDelivery,
  'dead-letter-replay': deadLetterReplay,
  maintenance,
  'health-check-cycle': healthCheckCycle,
};
