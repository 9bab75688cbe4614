import { hostname } from 'node:os';
import type { Admin, Kafka } from 'kafkajs';
import type pg from 'pg';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { type Deployment, readDeployment } from '../database/deployment.ts';
import { connect, disconnect } from '../database/postgres.ts';
import { OrchestratorError } from '../domain/errors.ts';
import { relayWorkflowId } from '../domain/outbox.ts';
import { OutboxTopics } from '../domain/outboxTopics.ts';
import { createKafka } from '../kafka/client.ts';
import { fromKafka } from '../kafka/errors.ts';
import type { OutboxPublisher } from '../kafka/outboxPublisher.ts';
import { openPublisher } from '../resources.ts';

/** What every command of `npm run outbox` works with. */
export interface CommandContext {
  config: Config;
  logger: Logger;
  deployment: Deployment;
  /** A connection whose statements may take as long as they need. */
  client: pg.Client;
  kafka: Kafka;
  admin: Admin;
  openPublisher(shard: number): OutboxPublisher;
  /** One line for the person in front of it. */
  say(line: string): void;
  close(): Promise<void>;
}

/** @throws OrchestratorError command_refused on a database that was never set up, postgres_…, kafka_unavailable */
export async function openContext(config: Config, logger: Logger): Promise<CommandContext> {
  const client = await connect(config.databaseUrl, 0);
  const kafka = createKafka(config.kafka, logger);
  const admin = kafka.admin();
  const close = async () => {
    await Promise.all([disconnect(client), admin.disconnect()]);
  };
  try {
    const deployment = await readDeployment(client);
    if (!deployment) throw refused('this database was never set up: start a worker, or `npm run migrate`');
    await admin.connect().catch((error) => Promise.reject(fromKafka(error)));
    return {
      config,
      logger,
      deployment,
      client,
      kafka,
      admin,
      openPublisher: openPublisher(config, kafka, deployment, new OutboxTopics()),
      say: (line) => console.log(line),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

export const refused = (sentence: string): OrchestratorError =>
  new OrchestratorError('command_refused', sentence);

/** As whom a command takes a shard over, for people who look at the journal. */
export const owner = (command: string): string =>
  `npm run outbox -- ${command} (${process.pid}@${hostname()})`;

export const resumeCommand = (shard: number): string =>
  `temporal workflow signal --workflow-id ${relayWorkflowId(shard)} --name resume`;

/** @throws OrchestratorError unknown_shard */
export function assertShard({ outboxShards }: Deployment, shard: number): void {
  if (shard >= outboxShards)
    throw new OrchestratorError(
      'unknown_shard',
      `shard ${shard} does not exist: there are 0 to ${outboxShards - 1}`,
    );
}
