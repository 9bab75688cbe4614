import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Runtime, Worker, type WorkerOptions } from '@temporalio/worker';
import { type Logger, pino, stdSerializers } from 'pino';
import { createOutboxActivities } from './activities/outbox.ts';
import { startSingletons } from './client.ts';
import { type Config, ConfigError, readConfig } from './config.ts';
import { describeError, OrchestratorError } from './domain/errors.ts';
import { relayTaskQueue } from './domain/outbox.ts';
import { KafkajsOutboxPublisher } from './kafka/outboxPublisher.ts';
import { Monitoring } from './monitoring.ts';
import { openResources, type Resources, untilUp } from './resources.ts';

/** What the process's end means to whoever started it. */
const EXIT = { stopped: 0, failed: 1, misconfigured: 2 } as const;

/** Bounds how late a pause or the loss of a shard is noticed; well inside the relay's heartbeat timeout. */
const MAX_HEARTBEAT_THROTTLE = '4 seconds';
const SINGLETON_CHECK_MS = 30_000;
/** What closing the connections may take beyond the workers' own bound. */
const CLOSING_SECONDS = 5;

async function main(): Promise<number> {
  const config = readConfig(process.env);
  const logger = pino({
    level: config.logLevel,
    base: { pid: process.pid },
    serializers: { error: (error) => (error instanceof Error ? stdSerializers.err(error) : error) },
  });
  const stop = stopSignal(config, logger);
  const monitoring = await Monitoring.start(config, logger);
  try {
    const resources = await openResources(config, logger, stop);
    try {
      await runWorkers({ config, logger, resources, monitoring, stop });
    } finally {
      await resources.close();
    }
    return EXIT.stopped;
  } catch (error) {
    // The wait for a dependency that was ended by the stop.
    if (stop.aborted && error === stop.reason) return EXIT.stopped;
    throw error;
  } finally {
    await monitoring.close();
    await Runtime.instance().shutdown();
  }
}

interface Running {
  config: Config;
  logger: Logger;
  resources: Resources;
  monitoring: Monitoring;
  stop: AbortSignal;
}

async function runWorkers({ config, logger, resources, monitoring, stop }: Running): Promise<void> {
  const workers = await createWorkers(config, logger, resources);
  monitoring.watch(workers, resources);
  const running = workers.map((worker) => worker.run());
  const shutdown = () => {
    for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown();
  };
  stop.addEventListener('abort', shutdown, { once: true });
  try {
    await Promise.race([keepSingletons({ config, logger, resources, stop }), ...running]);
  } finally {
    shutdown();
    await Promise.all(running);
    logger.info('worker stopped');
  }
}

/** A relay that somebody terminated, or that failed, is back within half a minute: to stop one, pause it. */
async function keepSingletons({
  config,
  logger,
  resources,
  stop,
}: Omit<Running, 'monitoring'>): Promise<void> {
  const open = () => startSingletons(resources.temporal, config.taskQueue, resources.deployment);
  await untilUp({ name: 'Temporal', open, logger, signal: stop });
  logger.info({ taskQueue: config.taskQueue, outboxShards: config.outbox.shards }, 'worker started');
  while (!stop.aborted) {
    await delay(SINGLETON_CHECK_MS, undefined, { signal: stop }).catch(() => {});
    if (!stop.aborted) await untilUp({ name: 'Temporal', open, logger, signal: stop });
  }
}

/**
 * Two workers, so that the relays' activities, a minute long each, never take the slots of the short ones. A relay
 * stops at once when asked and settles its batch; the short activities get the time that is left to finish.
 */
async function createWorkers(config: Config, logger: Logger, resources: Resources): Promise<Worker[]> {
  const common: WorkerOptions = {
    connection: resources.workerConnection,
    namespace: resources.namespace,
    taskQueue: config.taskQueue,
    identity: workerIdentity,
    shutdownForceTime: config.shutdownSeconds * 1000,
    maxHeartbeatThrottleInterval: MAX_HEARTBEAT_THROTTLE,
  };
  const orchestrator = await Worker.create({
    ...common,
    ...workflowSource(),
    shutdownGraceTime: Math.max(0, config.shutdownSeconds - 2) * 1000,
    maxCachedWorkflows: 200,
  });
  const relay = await Worker.create({
    ...common,
    taskQueue: relayTaskQueue(config.taskQueue),
    activities: createOutboxActivities({
      databaseUrl: config.databaseUrl,
      outboxShards: resources.deployment.outboxShards,
      wakeUps: resources.wakeUps,
      temporal: resources.temporal,
      owner: workerIdentity,
      logger,
      openPublisher: (shard) =>
        new KafkajsOutboxPublisher({
          kafka: resources.kafka,
          deploymentId: resources.deployment.id,
          shard,
          partitions: {
            conversationTopic: config.conversationTopic,
            defaultPartitions: config.kafka.defaultPartitions,
          },
        }),
    }),
    shutdownGraceTime: 0,
    maxConcurrentActivityTaskExecutions: resources.deployment.outboxShards,
  });
  return [orchestrator, relay];
}

/** Also tells apart two workers of one host and one pid namespace, as containers have it. */
const workerIdentity = `${process.pid}@${hostname()}-${randomUUID().slice(0, 8)}`;

/** In production the bundle was built with the image; in a checkout it is made from the sources at each start. */
function workflowSource(): Pick<WorkerOptions, 'workflowBundle' | 'workflowsPath'> {
  const codePath = path.join(import.meta.dirname, 'workflows.bundle.js');
  if (existsSync(codePath)) return { workflowBundle: { codePath } };
  return { workflowsPath: path.join(import.meta.dirname, 'workflows', 'index.ts') };
}

/** Aborted by SIGTERM or SIGINT. An impatient second Ctrl-C ends the process at once. */
function stopSignal({ shutdownSeconds }: Config, logger: Logger): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (controller.signal.aborted && signal === 'SIGINT') process.exit(EXIT.failed);
      if (controller.signal.aborted) return;
      logger.info({ signal }, 'stopping');
      controller.abort();
      const late = () => {
        logger.error('the stop took too long');
        process.exit(EXIT.failed);
      };
      setTimeout(late, (shutdownSeconds + CLOSING_SECONDS) * 1000).unref();
    });
  }
  return controller.signal;
}

function exitCodeOf(error: unknown): number {
  const misconfigured =
    error instanceof ConfigError ||
    (error instanceof OrchestratorError && error.code === 'shard_count_mismatch');
  return misconfigured ? EXIT.misconfigured : EXIT.failed;
}

main()
  .catch((error: unknown) => {
    console.error(error instanceof ConfigError ? error.message : describeError(error));
    return exitCodeOf(error);
  })
  .then((code) => process.exit(code));
