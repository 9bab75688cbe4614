import { setTimeout as delay } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';
import type { Kafka } from 'kafkajs';
import type pg from 'pg';
import type { Logger } from 'pino';
import type { Config } from './config.ts';
import { type Deployment, settleDeployment } from './database/deployment.ts';
import { MEMORY_CHANNEL } from './database/memoryBook.ts';
import { migrate } from './database/migrate.ts';
import { OutboxWakeUps } from './database/outboxWakeUps.ts';
import { connect, disconnect, fromPostgres, openPool, withinReason } from './database/postgres.ts';
import { describeError, OrchestratorError } from './domain/errors.ts';
import type { OutboxTopics } from './domain/outboxTopics.ts';
import { createKafka } from './kafka/client.ts';
import { KafkajsOutboxPublisher, type OutboxPublisher } from './kafka/outboxPublisher.ts';
import { connectionForProbes } from './probes/temporal.ts';
import type { StorageTier } from './storage/tier.ts';
import { openTiers } from './storage/tiers.ts';
import { UploadSources } from './storage/uploadSources.ts';

/** Everything the worker holds open. */
export interface Resources {
  deployment: Deployment;
  pool: pg.Pool;
  wakeUps: OutboxWakeUps;
  memoryWakeUps: OutboxWakeUps;
  kafka: Kafka;
  temporal: Client;
  /** Temporal as the health cycle finds it. */
  probeConnection: Connection;
  /** The connection that the workers poll by. */
  workerConnection: NativeConnection;
  namespace: string;
  /** The storage tiers that are configured, best first. */
  tiers: readonly StorageTier[];
  uploadSources: UploadSources;
  close(): Promise<void>;
}

/**
 * Opens everything in the order of need and waits for what is not up yet, until `signal` aborts. Kafka is not waited
 * for: the relays are the ones that need it, and their workflows show that they wait.
 * @throws OrchestratorError shard_count_mismatch, and whatever no waiting can mend
 */
export async function openResources(config: Config, logger: Logger, signal: AbortSignal): Promise<Resources> {
  const opened: { close(): Promise<unknown> }[] = [];
  const close = async () => {
    for (const resource of opened.splice(0).reverse()) await resource.close();
  };
  const patiently = <T>(name: string, open: () => Promise<T>) => untilUp({ name, open, logger, signal });
  try {
    const deployment = await patiently('Postgres', () => prepareDatabase(config, logger));
    const pool = openPool(config.databaseUrl);
    opened.push({ close: () => withinReason(pool.end()) });
    const wakeUps = new OutboxWakeUps(config.databaseUrl);
    opened.push(wakeUps);
    const memoryWakeUps = new OutboxWakeUps(config.databaseUrl, MEMORY_CHANNEL);
    opened.push(memoryWakeUps);
    const kafka = createKafka(config.kafka, logger);
    const { connectionOptions, namespace } = temporalOptions(config);
    const temporal = await patiently('Temporal', () => openTemporal(config));
    opened.push(temporal.connection);
    const probeConnection = connectionForProbes(connectionOptions);
    opened.push(probeConnection);
    const workerConnection = await patiently('Temporal', () => NativeConnection.connect(connectionOptions));
    opened.push(workerConnection);
    const tiers = openTiers(config);
    const uploadSources = new UploadSources({ ...config, allowed: config.uploadSources });
    opened.push({ close: async () => uploadSources.close() });
    return {
      deployment,
      pool,
      wakeUps,
      memoryWakeUps,
      kafka,
      temporal,
      probeConnection,
      workerConnection,
      namespace,
      tiers,
      uploadSources,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A client for the workflows; its connection is the caller's to close. */
export async function openTemporal(config: Pick<Config, 'temporalAddress'>): Promise<Client> {
  const { connectionOptions, namespace } = temporalOptions(config);
  return new Client({ connection: await Connection.connect(connectionOptions), namespace });
}

/** One shard's way to Kafka, with the settings of this process. */
export const openPublisher =
  (
    { conversationTopic, kafka: { defaultPartitions, createTopics } }: Config,
    kafka: Kafka,
    { id }: Deployment,
    topics: OutboxTopics,
  ) =>
  (shard: number): OutboxPublisher =>
    new KafkajsOutboxPublisher({
      kafka,
      deploymentId: id,
      shard,
      partitions: { conversationTopic, defaultPartitions, createTopics },
      topics,
    });

/** Temporal's own variables and temporal.toml count first; SA01_TEMPORAL_HOST where they name no address. */
function temporalOptions(config: Pick<Config, 'temporalAddress'>) {
  const { connectionOptions, namespace } = loadClientConnectConfig();
  return {
    connectionOptions: { ...connectionOptions, address: connectionOptions.address ?? config.temporalAddress },
    namespace: namespace ?? 'default',
  };
}

/** The schema and this deployment's record in it; done by whichever worker, or `npm run migrate`, comes first. */
export async function prepareDatabase(config: Config, logger: Logger): Promise<Deployment> {
  const migrations = await migrate(config.databaseUrl);
  logger.info({ migrations }, migrations.length > 0 ? 'database migrated' : 'database is up to date');
  const client = await connect(config.databaseUrl, 0);
  try {
    return await settleDeployment(client, config.outbox.shards);
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    await disconnect(client);
  }
}

interface Patience<T> {
  name: string;
  open: () => Promise<T>;
  logger: Logger;
  signal: AbortSignal;
}

const MAX_PAUSE_MS = 5_000;

/** A dependency that is not up yet is waited for, with a line that says why; a no of Postgres ends the start. */
export async function untilUp<T>({ name, open, logger, signal }: Patience<T>): Promise<T> {
  for (let pause = 250; ; pause = Math.min(MAX_PAUSE_MS, pause * 2)) {
    signal.throwIfAborted();
    try {
      return await open();
    } catch (error) {
      if (error instanceof OrchestratorError && (!error.retryable || error.code === 'postgres_refused'))
        throw error;
      logger.warn({ error: describeError(error) }, `waiting for ${name}`);
      // An aborted wait is told by the check above, with the reason of the stop.
      await delay(pause, undefined, { signal }).catch(() => {});
    }
  }
}
