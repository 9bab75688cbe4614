import { readFileSync } from 'node:fs';
import {
  type ISocketFactory,
  Kafka,
  type KafkaConfig,
  type logCreator,
  logLevel,
  type SASLOptions,
} from 'kafkajs';
import type { Logger } from 'pino';

export interface KafkaConnection {
  brokers: string[];
  ssl: false | { caFile?: string | undefined };
  sasl: SASLOptions | undefined;
}

/** A broker that does not answer within this time counts as away. */
const REQUEST_TIMEOUT_MS = 10_000;

/**
 * kafkajs reports every connection attempt as an error of its own. Whoever uses the client gets the error thrown and
 * decides what it means, so its chatter is worth no more than the debug level.
 */
const logTo =
  (logger: Logger): logCreator =>
  () =>
  ({ namespace, log: { message, ...details } }) =>
    logger.debug({ namespace, ...details }, message);

export function createKafka(
  { brokers, ssl, sasl }: KafkaConnection,
  logger: Logger,
  socketFactory?: ISocketFactory,
): Kafka {
  const config: KafkaConfig = {
    clientId: 'somaagent-orchestrator',
    brokers,
    ssl: ssl && (ssl.caFile ? { ca: readFileSync(ssl.caFile) } : true),
    connectionTimeout: 3_000,
    requestTimeout: REQUEST_TIMEOUT_MS,
    logLevel: logLevel.INFO,
    logCreator: logTo(logger),
    // For metadata and coordinators, about two seconds in all. Longer waits are Temporal's part, where people see them.
    retry: { initialRetryTime: 100, retries: 4 },
  };
  if (sasl) config.sasl = sasl;
  if (socketFactory) config.socketFactory = socketFactory;
  return new Kafka(config);
}
