import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { Runtime, type Worker } from '@temporalio/worker';
import type { Logger } from 'pino';
import { measureBackups } from './backupMetrics.ts';
import type { Config } from './config.ts';
import { measureConsumers } from './consumers.ts';
import { readBackupTimes } from './database/backups.ts';
import { readMemoryBacklog } from './database/memoryBook.ts';
import { countOpenUploads } from './database/openUploads.ts';
import { readBacklog } from './database/outbox.ts';
import { describeError, OrchestratorError } from './domain/errors.ts';
import type { TopicConsumer } from './kafka/topicConsumer.ts';
import type { Resources } from './resources.ts';

type Watched = Pick<Resources, 'pool' | 'deployment'>;

/** A scrape must never queue up behind a slow database: gauges that are not there in time keep their last value. */
const BACKLOG_TIMEOUT_MS = 2_000;
const LATENCY_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/**
 * What the world sees of this process, on one address:
 *   /metrics  Prometheus: the SDK's own worker metrics and this service's beside them
 *   /livez    200 while the process turns its event loop
 *   /readyz   200 while its workers run, 503 before and after. Outages of Temporal, Kafka or Postgres don't count: a
 *             restart would not mend them.
 */
export class Monitoring {
  private readonly server: Server;
  private readonly logger: Logger;
  private readonly coreMetrics: string;
  private workers: Worker[] = [];
  private watched: Watched | undefined;
  private consumers: TopicConsumer[] = [];
  /** The most shards that there were. */
  private shards = 0;

  private constructor(logger: Logger, coreMetrics: string) {
    this.logger = logger;
    this.coreMetrics = coreMetrics;
    this.server = createServer((request, response) => void this.answer(request, response));
  }

  /** Installs Temporal's runtime, whose metrics are part of ours, and listens. */
  static async start(
    { metricsAddress }: Pick<Config, 'metricsAddress'>,
    logger: Logger,
  ): Promise<Monitoring> {
    // The SDK exports its metrics by a server of its own. It gets a private port, and /metrics passes them on.
    const bindAddress = `127.0.0.1:${await freePort()}`;
    Runtime.install({
      shutdownSignals: [],
      logger: sdkLogger(logger),
      telemetryOptions: {
        logging: { filter: { core: 'WARN', other: 'ERROR' }, forward: {} },
        metrics: {
          prometheus: {
            bindAddress,
            countersTotalSuffix: true,
            useSecondsForDurations: true,
            histogramBucketOverrides: {
              outbox_publish_latency_seconds: LATENCY_BUCKETS,
              service_latency_seconds: [0.1, 0.25, 0.5, 1, 2.5, 5, 10],
            },
          },
        },
      },
    });
    const monitoring = new Monitoring(logger, `http://${bindAddress}/metrics`);
    await monitoring.listen(metricsAddress);
    return monitoring;
  }

  watch(workers: Worker[], resources: Watched, consumers: TopicConsumer[]): void {
    this.workers = workers;
    this.watched = resources;
    this.consumers = consumers;
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async listen({ host, port }: Config['metricsAddress']): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', (error) =>
        reject(
          new OrchestratorError(
            'invalid_input',
            `SA01_METRICS_ADDRESS ${host}:${port} cannot be used: ${error.message}`,
          ),
        ),
      );
      this.server.listen(port, host, resolve);
    });
    const { port: bound } = this.server.address() as AddressInfo;
    this.logger.info(`metrics, /livez and /readyz on http://${host}:${bound}`);
  }

  private async answer({ url }: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      if (url === '/metrics') await this.answerMetrics(response);
      else if (url === '/livez') response.end('alive\n');
      else if (url === '/readyz') this.answerReadiness(response);
      else response.writeHead(404).end('there is /metrics, /livez and /readyz\n');
    } catch (error) {
      response.writeHead(500).end(`${describeError(error)}\n`);
    }
  }

  private answerReadiness(response: ServerResponse): void {
    const states = this.workers.map((worker) => worker.getState());
    const ready = states.length > 0 && states.every((state) => state === 'RUNNING');
    response.writeHead(ready ? 200 : 503, { 'content-type': 'application/json' });
    response.end(`${JSON.stringify({ ready, workers: states })}\n`);
  }

  private async answerMetrics(response: ServerResponse): Promise<void> {
    await Promise.all([
      this.orKeepLast('outbox', () => this.measureOutbox()),
      this.orKeepLast('memory', () => this.measureMemories()),
      this.orKeepLast('backup', () => this.measureBackups()),
      this.orKeepLast('upload', () => this.measureUploads()),
    ]);
    measureConsumers(this.consumers);
    const metrics = await fetch(this.coreMetrics);
    response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(await metrics.text());
  }

  /** Each for itself: a slow count of one backlog does not freeze the gauges of the other. */
  private async orKeepLast(gauges: string, measure: () => Promise<void>): Promise<void> {
    await measure().catch((error: unknown) => {
      this.logger.warn({ error: describeError(error) }, `${gauges} gauges keep their last values`);
    });
  }

  private async measureMemories(): Promise<void> {
    if (!this.watched) return;
    const memories = await inTime(readMemoryBacklog(this.watched.pool));
    const meter = Runtime.instance().metricMeter;
    meter
      .createGauge('memory_pending', 'int', undefined, 'memories that wait for SomaBrain')
      .set(memories.pending);
    meter
      .createGauge('memory_oldest_pending_seconds', 'float', undefined, 'age of the oldest of them')
      .set(memories.oldestSeconds);
  }

  private async measureBackups(): Promise<void> {
    if (this.watched) measureBackups(await inTime(readBackupTimes(this.watched.pool)));
  }

  private async measureUploads(): Promise<void> {
    if (!this.watched) return;
    const open = await inTime(countOpenUploads(this.watched.pool));
    const gauge = Runtime.instance().metricMeter.createGauge(
      'uploads_open',
      'int',
      undefined,
      'uploads that are not where they belong yet',
    );
    for (const [state, uploads] of Object.entries(open)) gauge.set(uploads, { state });
  }

  private async measureOutbox(): Promise<void> {
    if (!this.watched) return;
    const { pool, deployment } = this.watched;
    const backlog = await inTime(readBacklog(pool, deployment.outboxShards));
    const meter = Runtime.instance().metricMeter;
    const pending = meter.createGauge('outbox_messages_pending', 'int', undefined, 'rows that wait');
    const oldest = meter.createGauge(
      'outbox_oldest_pending_seconds',
      'float',
      undefined,
      'age of the oldest of them',
    );
    const parked = meter.createGauge(
      'outbox_messages_parked',
      'int',
      undefined,
      'rows that Kafka cannot take',
    );
    // A shard that is no more keeps no last value.
    this.shards = Math.max(this.shards, deployment.outboxShards);
    for (let shard = backlog.length; shard < this.shards; shard += 1)
      backlog.push({ shard, pending: 0, oldestSeconds: 0, parked: 0 });
    for (const shard of backlog) {
      const tags = { shard: String(shard.shard) };
      pending.set(shard.pending, tags);
      oldest.set(shard.oldestSeconds, tags);
      parked.set(shard.parked, tags);
    }
  }
}

function inTime<T>(answer: Promise<T>): Promise<T> {
  const late = new Promise<never>((_, reject) =>
    setTimeout(
      () => reject(new Error(`no answer from Postgres in ${BACKLOG_TIMEOUT_MS} ms`)),
      BACKLOG_TIMEOUT_MS,
    ).unref(),
  );
  return Promise.race([answer, late]);
}

const sdkLogger = (logger: Logger) => ({
  log: (level: string, message: string, meta = {}) =>
    logger[level.toLowerCase() as 'trace' | 'debug' | 'info' | 'warn' | 'error'](meta, message),
  trace: (message: string, meta = {}) => logger.trace(meta, message),
  debug: (message: string, meta = {}) => logger.debug(meta, message),
  info: (message: string, meta = {}) => logger.info(meta, message),
  warn: (message: string, meta = {}) => logger.warn(meta, message),
  error: (message: string, meta = {}) => logger.error(meta, message),
});

async function freePort(): Promise<number> {
  const server = createTcpServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
