import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { Client } from '@temporalio/client';
import { Runtime } from '@temporalio/worker';
import { type Logger, pino, stdSerializers } from 'pino';
import { LingeringRelays } from './activities/lingeringRelays.ts';
import { ownDatabase } from './backupSettings.ts';
import { makeDestination } from './backups/open.ts';
import { startSingletons } from './client.ts';
import { type Config, ConfigError, readConfig } from './config.ts';
import { startConsumers } from './consumers.ts';
import { readDeployment } from './database/deployment.ts';
import { describeError, OrchestratorError } from './domain/errors.ts';
import { readHealthModel } from './healthConfig.ts';
import { Monitoring } from './monitoring.ts';
import type { HealthModel } from './probes/target.ts';
import { openResources, type Resources, untilUp } from './resources.ts';
import { keepSchedules } from './schedules.ts';
import { resumeUploads } from './uploads.ts';
import { createWorkers } from './workers.ts';

/** What the process's end means to whoever started it. */
const EXIT = { stopped: 0, failed: 1, misconfigured: 2 } as const;

const SINGLETON_CHECK_MS = 30_000;
/** How long a change of the number of shards goes unnoticed; one small query. */
const DEPLOYMENT_CHECK_MS = 2_000;
/** The relays must not wait for a Temporal whose Schedules do not answer. */
const SCHEDULES_WITHIN_MS = 5_000;
/** What closing the connections may take beyond the workers' own bound. */
const CLOSING_SECONDS = 5;

async function main(): Promise<number> {
  const config = readConfig(process.env);
  const health = readHealthModel(config);
  const logger = pino({
    level: config.logLevel,
    base: { pid: process.pid },
    serializers: { error: (error) => (error instanceof Error ? stdSerializers.err(error) : error) },
  });
  const stop = stopSignal(config, logger);
  const monitoring = await Monitoring.start(config, logger);
  if (config.backupDestination)
    await makeDestination(config.backupDestination).catch((error: unknown) => {
      logger.warn({ error: describeError(error) }, 'backups have no place yet');
    });
  try {
    // Once more for each change of the deployment.
    while (!stop.aborted) {
      const resources = await openResources(config, logger, stop);
      try {
        await runWorkers({ config, health, logger, resources, monitoring, stop });
      } finally {
        await resources.close();
      }
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
  health: HealthModel;
  logger: Logger;
  resources: Resources;
  monitoring: Monitoring;
  stop: AbortSignal;
}

/** Runs the workers until the stop, or until the deployment is no longer the one that they were made for. */
async function runWorkers({ config, health, logger, resources, monitoring, stop }: Running): Promise<void> {
  const lingering = new LingeringRelays(logger);
  const workers = await createWorkers({ config, health, logger, resources, lingering, stop });
  const { workerConnection: connection, namespace } = resources;
  const temporal = new Client({ connection, namespace });
  const consumers = startConsumers({ config, logger, ...resources, temporal });
  monitoring.watch(workers, resources, consumers);
  const running = workers.map((worker) => worker.run());
  let closing: Promise<unknown> | undefined;
  const shutdown = () => {
    for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown();
    closing ??= Promise.all([lingering, ...consumers].map((each) => each.close()));
  };
  stop.addEventListener('abort', shutdown, { once: true });
  try {
    await Promise.race([keepSingletons({ config, logger, resources, stop }), ...running]);
  } finally {
    shutdown();
    await Promise.all([...running, closing]);
    logger.info('worker stopped');
  }
}

/**
 * A relay that somebody terminated, or that failed, is back within half a minute: to stop one, pause it. Returns when the
 * number of shards was changed: these workers would only be refused from then on.
 */
async function keepSingletons({
  config,
  logger,
  resources,
  stop,
}: Omit<Running, 'monitoring' | 'health'>): Promise<void> {
  const open = () => startSingletons(resources.temporal, config.taskQueue, resources.deployment);
  await untilUp({ name: 'Temporal', open, logger, signal: stop });
  const { outboxShards } = resources.deployment;
  logger.info({ taskQueue: config.taskQueue, outboxShards }, 'worker started');
  const tryToKeepSchedules = scheduleKeeper({ config, logger, resources });
  while (!stop.aborted) {
    await tryToKeepSchedules();
    await resumeUploads({ ...resources, taskQueue: config.taskQueue }).catch((error: unknown) => {
      logger.warn({ error: describeError(error) }, 'uploads are looked after later');
    });
    if (await changesWithin(SINGLETON_CHECK_MS, resources, stop)) {
      logger.info({ outboxShards }, 'the deployment has changed: opening again');
      return;
    }
    if (!stop.aborted) await untilUp({ name: 'Temporal', open, logger, signal: stop });
  }
}

/** Waits, and returns early when the deployment has changed, or at the stop. While Postgres is away nothing is known. */
async function changesWithin(
  ms: number,
  { pool, deployment }: Resources,
  stop: AbortSignal,
): Promise<boolean> {
  for (let waited = 0; waited < ms && !stop.aborted; waited += DEPLOYMENT_CHECK_MS) {
    await delay(DEPLOYMENT_CHECK_MS, undefined, { signal: stop }).catch(() => {});
    const now = await readDeployment(pool).catch(() => deployment);
    if (!isDeepStrictEqual(now, deployment)) return true;
  }
  return false;
}

/** Without its Schedules (a missing right, for example) a worker works on, and says so once. */
function scheduleKeeper({ config, logger, resources }: Pick<Running, 'config' | 'logger' | 'resources'>) {
  let told = '';
  return async () => {
    const keeping = resources.temporal.withDeadline(Date.now() + SCHEDULES_WITHIN_MS, () =>
      keepSchedules(
        resources.temporal,
        config.taskQueue,
        config.backupDestination ? ownDatabase(config) : undefined,
      ),
    );
    const problem = await keeping.then(() => '', describeError);
    if (problem !== '' && problem !== told) logger.warn({ error: problem }, 'schedules cannot be kept');
    told = problem;
  };
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
