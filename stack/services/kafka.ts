import { existsSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Kafka, logLevel } from 'kafkajs';
import { cached } from '../cache.ts';
import { host, type Ports } from '../ports.ts';
import { copyMavenArtifacts, javaTool, run } from '../programs.ts';
import type { Program, Service, Setting } from './service.ts';

const version = '3.7.0';
// Any 22 base64 characters that make a UUID; one value for all, as no two brokers here form a cluster.
const clusterId = 'c29tYWFnZW50LXN0YWNrMA';

async function obtain(): Promise<Program> {
  javaTool('java', 'Apache Kafka');
  const artifacts = ['kafka_2.13', 'kafka-tools'].map((name) => `org.apache.kafka:${name}:${version}`);
  artifacts.push('org.slf4j:slf4j-reload4j:1.7.36');
  const build = (directory: string) => copyMavenArtifacts(`Apache Kafka ${version}`, artifacts, directory);
  return { home: await cached(`kafka-${version}`, build), version };
}

/** A single node, broker and controller in one, whose internal topics fit it. */
function properties(data: string, ports: Ports): Record<string, string | number> {
  return {
    'process.roles': 'broker,controller',
    'node.id': 1,
    'controller.quorum.voters': `1@${host}:${ports.kafkaController}`,
    listeners: `PLAINTEXT://${host}:${ports.kafka},CONTROLLER://${host}:${ports.kafkaController}`,
    'advertised.listeners': `PLAINTEXT://${host}:${ports.kafka}`,
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'controller.listener.names': 'CONTROLLER',
    'log.dirs': data,
    'auto.create.topics.enable': 'false',
    'group.initial.rebalance.delay.ms': 0,
    'offsets.topic.replication.factor': 1,
    'offsets.topic.num.partitions': 4,
    // The relays' marks are offsets: a shard that is paused for longer than the default week must find its own again.
    'offsets.retention.minutes': 525_600,
    'transaction.state.log.replication.factor': 1,
    'transaction.state.log.min.isr': 1,
    'transaction.state.log.num.partitions': 4,
    // After a crash the controller refuses the new broker until the old one's registration has run out.
    'broker.session.timeout.ms': 3000,
    'broker.heartbeat.interval.ms': 500,
    // A broker with nobody to hand its partitions to need not try for long.
    'controlled.shutdown.max.retries': 1,
  };
}

const log4j = `log4j.rootLogger=WARN, stdout
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d{ISO8601} %p %c: %m%n
`;

async function prepare({ directory, ports, program }: Setting) {
  const data = path.join(directory, 'data');
  const configuration = path.join(directory, 'server.properties');
  const logging = path.join(directory, 'log4j.properties');
  const java = javaTool('java', 'Apache Kafka');
  const jvm = ['-cp', path.join(program.home, 'libs', '*'), `-Dlog4j.configuration=file:${logging}`];
  const write = (values: object) =>
    writeFile(
      configuration,
      Object.entries(values)
        .map((entry) => `${entry.join('=')}\n`)
        .join(''),
    );
  await writeFile(logging, log4j);
  if (!existsSync(data)) {
    // Formatted under another name: a format that was interrupted is done again.
    const partial = `${data}.partial`;
    await rm(partial, { recursive: true, force: true });
    await write(properties(partial, ports));
    const format = ['kafka.tools.StorageTool', 'format', '-t', clusterId, '-c', configuration];
    await run(java, ['-XX:TieredStopAtLevel=1', ...jvm, ...format], { cwd: directory });
    await rename(partial, data);
  }
  await write(properties(data, ports));
  return {
    command: java,
    args: ['-Xms256m', '-Xmx512m', '-Djava.awt.headless=true', ...jvm, 'kafka.Kafka', configuration],
    env: {},
    cwd: directory,
  };
}

async function ready(ports: Ports) {
  const client = new Kafka({
    clientId: 'stack',
    brokers: [`${host}:${ports.kafka}`],
    logLevel: logLevel.NOTHING,
    connectionTimeout: 2000,
    requestTimeout: 5000,
    retry: { retries: 0 },
  });
  const admin = client.admin();
  try {
    await admin.connect();
    const { controller } = await admin.describeCluster();
    if (controller === null) throw new Error('Kafka has no active controller yet');
  } finally {
    await admin.disconnect();
  }
}

export const kafka: Service = {
  title: 'Apache Kafka',
  ports: (ports) => [ports.kafka, ports.kafkaController],
  obtain,
  prepare,
  ready,
  env: (ports) => ({ SA01_KAFKA_BOOTSTRAP_SERVERS: `${host}:${ports.kafka}` }),
  stopSignal: 'SIGTERM',
  stopWithinMs: 5000,
};
