import { randomUUID } from 'node:crypto';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { Worker, type WorkerOptions } from '@temporalio/worker';
import type { Logger } from 'pino';
import { createBackupActivities, createMakeBackupActivities } from './activities/backups.ts';
import { createDeadLetterActivities } from './activities/deadLetters.ts';
import { createHealthActivities } from './activities/health.ts';
import { createHealthRecordActivities } from './activities/healthRecords.ts';
import type { LingeringRelays } from './activities/lingeringRelays.ts';
import { createMaintenanceActivities } from './activities/maintenance.ts';
import { createMemoryActivities, createMemoryHurryActivities } from './activities/memory.ts';
import { createOutboxActivities } from './activities/outbox.ts';
import { createOutboxDeliveryActivities, startDeliveries } from './activities/outboxDelivery.ts';
import { createDrillActivities, createRestoreDrillActivities } from './activities/restoreDrills.ts';
import { createUploadBytesActivities, UploadBytes } from './activities/uploadBytes.ts';
import { createUploadSweepActivities } from './activities/uploadSweep.ts';
import { createUploadActivities } from './activities/uploads.ts';
import { backupSettings } from './backupSettings.ts';
import type { Config } from './config.ts';
import { tiersWorthTrying } from './database/uploadTiers.ts';
import { backupTaskQueue } from './domain/backups.ts';
import { memoryTaskQueue } from './domain/memories.ts';
import { relayTaskQueue } from './domain/outbox.ts';
import { OutboxTopics } from './domain/outboxTopics.ts';
import { MAX_UPLOADS, uploadBytesTaskQueue, uploadTaskQueue } from './domain/uploads.ts';
import { tryKafka } from './kafka/trial.ts';
import type { HealthModel } from './probes/target.ts';
import { openPublisher, type Resources } from './resources.ts';
import { SomaBrain } from './somabrain/client.ts';
import { workflowBundle } from './workflowBundle.ts';

/** Bounds how late a pause or the loss of a shard is noticed; well inside the relay's heartbeat timeout. */
const MAX_HEARTBEAT_THROTTLE = '4 seconds';

/** A drill need not wait for a dump; more at once would only fight over the same disks. */
const BACKUPS_AT_ONCE = 2;

/** What a worker is made of. */
export interface Parts {
  config: Config;
  health: HealthModel;
  logger: Logger;
  resources: Resources;
  lingering: LingeringRelays;
  stop: AbortSignal;
}

/**
 * Six workers, so that what takes long (relays, the memory sync, bytes of uploads, dumps and drills) never takes the slots
 * of short activities, and thousands of uploads no other workflow's turn. A relay stops at once when asked and settles its
 * batch, the sync ends its calls, an upload or a dump begins anew elsewhere; the short activities get the time that is left
 * to finish.
 */
export async function createWorkers(parts: Parts): Promise<Worker[]> {
  const { config, resources } = parts;
  const common: WorkerOptions = {
    connection: resources.workerConnection,
    namespace: resources.namespace,
    taskQueue: config.taskQueue,
    identity: workerIdentity,
    shutdownForceTime: config.shutdownSeconds * 1000,
    maxHeartbeatThrottleInterval: MAX_HEARTBEAT_THROTTLE,
    // Uploads that are stored at once: each holds its file in memory.
    maxConcurrentLocalActivityExecutions: MAX_UPLOADS,
  };
  const orchestrator = await Worker.create({
    ...common,
    workflowBundle: await workflowBundle(),
    activities: shortActivities(parts),
    shutdownGraceTime: Math.max(0, config.shutdownSeconds - 2) * 1000,
    maxCachedWorkflows: 200,
  });
  const relay = await Worker.create({
    ...common,
    taskQueue: relayTaskQueue(config.taskQueue),
    activities: relayActivities(parts),
    shutdownGraceTime: 0,
    maxConcurrentActivityTaskExecutions: resources.deployment.outboxShards,
  });
  const memory = await Worker.create({
    ...common,
    taskQueue: memoryTaskQueue(config.taskQueue),
    activities: memoryActivities(parts),
    shutdownGraceTime: 0,
    maxConcurrentActivityTaskExecutions: 1,
  });
  const backup = await Worker.create({
    ...common,
    taskQueue: backupTaskQueue(config.taskQueue),
    activities: backupActivities(parts),
    shutdownGraceTime: 0,
    maxConcurrentActivityTaskExecutions: BACKUPS_AT_ONCE,
  });
  const upload = await Worker.create({
    ...common,
    taskQueue: uploadTaskQueue(config.taskQueue),
    workflowBundle: await workflowBundle(),
    activities: uploadActivities(parts),
    shutdownGraceTime: Math.max(0, config.shutdownSeconds - 2) * 1000,
    maxCachedWorkflows: 200,
  });
  const uploadBytesWorker = await Worker.create({
    ...common,
    taskQueue: uploadBytesTaskQueue(config.taskQueue),
    activities: createUploadBytesActivities(uploadBytes(resources)),
    shutdownGraceTime: 0,
    maxConcurrentActivityTaskExecutions: MAX_UPLOADS,
  });
  return [orchestrator, relay, memory, upload, uploadBytesWorker, backup];
}

function shortActivities(parts: Parts) {
  const { config, health, logger, resources, stop } = parts;
  return {
    ...createOutboxDeliveryActivities({ ...resources, stop }),
    ...createDeadLetterActivities({ ...resources, stop }),
    ...createMaintenanceActivities({
      databaseUrl: config.databaseUrl,
      retentionDays: config.outbox.retentionDays,
      stop,
    }),
    ...createUploadSweepActivities({ ...resources, ...config, stop }),
    ...createHealthActivities({
      health,
      kafka: config.kafka,
      temporal: resources.probeConnection,
      logger,
    }),
    ...createMemoryHurryActivities(resources),
    ...createBackupActivities(backupDependencies(config, resources)),
    ...createRestoreDrillActivities(resources),
    ...createHealthRecordActivities({ pool: resources.pool, webhook: config.healthWebhook }),
    // For an upload that a person starts on this queue.
    ...uploadActivities(parts),
  };
}

const uploadActivities = ({ config, resources }: Parts) =>
  createUploadActivities({
    pool: resources.pool,
    tierNames: tierNames(resources),
    sources: resources.uploadSources,
    bytesTaskQueue: uploadBytesTaskQueue(config.taskQueue),
    bytes: uploadBytes(resources),
  });

function relayActivities({ config, logger, resources, lingering }: Parts) {
  const { deployment, kafka, wakeUps, temporal } = resources;
  const { outboxShards } = deployment;
  const deliveries = { ...resources, taskQueue: config.taskQueue, outboxShards };
  const topics = new OutboxTopics();
  return createOutboxActivities({
    databaseUrl: config.databaseUrl,
    deployment,
    wakeUps,
    temporal,
    owner: workerIdentity,
    logger,
    topics,
    lingering,
    startDeliveries: (shard) => startDeliveries(deliveries, shard),
    openPublisher: openPublisher(config, kafka, deployment, topics),
    tryKafka: () => tryKafka(kafka),
  });
}

function memoryActivities({ config, logger, resources }: Parts) {
  return createMemoryActivities({
    ...resources,
    databaseUrl: config.databaseUrl,
    store: new SomaBrain({ url: config.somabrainUrl, token: config.somabrainToken }),
    wakeUps: resources.memoryWakeUps,
    owner: workerIdentity,
    logger,
  });
}

const backupDependencies = (config: Config, { pool }: Resources) => ({
  pool,
  settings: backupSettings(config),
  defaultDestination: config.backupDestination,
  retention: config.backups.retention,
});

function backupActivities({ config, resources, stop }: Parts) {
  const dependencies = { ...backupDependencies(config, resources), temporal: resources.temporal, stop };
  return {
    ...createMakeBackupActivities(dependencies),
    ...createDrillActivities({
      ...dependencies,
      databaseUrl: config.databaseUrl,
      checks: config.backups.drillChecks,
      scratchDirectory: path.join(config.spoolDir ?? tmpdir(), 'somaagent-restore-drills'),
    }),
  };
}

function uploadBytes(resources: Resources): UploadBytes {
  const { pool, tiers, uploadSources: sources } = resources;
  const names = tierNames(resources);
  return new UploadBytes({ pool, tiers, tiersWorthTrying: () => tiersWorthTrying(pool, names), sources });
}

const tierNames = ({ tiers }: Pick<Resources, 'tiers'>) => tiers.map(({ name }) => name);

/** Also tells apart two workers of one host and one pid namespace, as containers have it. */
const workerIdentity = `${process.pid}@${hostname()}-${randomUUID().slice(0, 8)}`;
