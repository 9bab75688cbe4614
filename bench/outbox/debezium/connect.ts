// Kafka Connect with Debezium's connector on the classpath: one distributed worker on the stack of this run, since only
// a distributed worker can be exactly-once.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { cached } from '../../../stack/cache.ts';
import { freePort, host } from '../../../stack/ports.ts';
import { copyMavenArtifacts, javaTool, lastLines } from '../../../stack/programs.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { testStack } from '../../../test/support/stack.ts';

const KAFKA = '3.7.0';
const DEBEZIUM = '2.7.4.Final';
const artifacts = [
  `org.apache.kafka:connect-runtime:${KAFKA}`,
  `io.debezium:debezium-connector-postgres:${DEBEZIUM}`,
  'org.slf4j:slf4j-reload4j:1.7.36',
];

/** What Kafka's own start script for Connect gives the JVM. */
const jvm = [
  ...['-Xms256m', '-Xmx2g', '-server', '-XX:+UseG1GC', '-XX:MaxGCPauseMillis=20'],
  ...['-XX:InitiatingHeapOccupancyPercent=35', '-XX:+ExplicitGCInvokesConcurrent'],
  ...['-XX:MaxInlineLevel=15', '-Djava.awt.headless=true'],
];

const log4j = `log4j.rootLogger=WARN, stdout
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d{ISO8601} %p %c: %m%n
`;

/** Exactly-once for sources; everything else as it comes, but for replication on a single broker. */
const workerProperties = (brokers: string, port: number) => ({
  'bootstrap.servers': brokers,
  'group.id': 'bench-connect',
  'exactly.once.source.support': 'enabled',
  'config.storage.topic': 'bench-connect-configs',
  'config.storage.replication.factor': 1,
  'offset.storage.topic': 'bench-connect-offsets',
  'offset.storage.replication.factor': 1,
  'offset.storage.partitions': 1,
  'status.storage.topic': 'bench-connect-status',
  'status.storage.replication.factor': 1,
  'status.storage.partitions': 1,
  // Text as it is: the cheapest there is, and what the relay sends.
  'key.converter': 'org.apache.kafka.connect.storage.StringConverter',
  'value.converter': 'org.apache.kafka.connect.storage.StringConverter',
  'header.converter': 'org.apache.kafka.connect.storage.StringConverter',
  'plugin.discovery': 'service_load',
  listeners: `http://${host}:${port}`,
});

/** A running Connect worker, asked by its REST interface. */
export class Connect implements AsyncDisposable {
  readonly pid: number;
  private readonly process: ChildProcess;
  private readonly address: string;

  private constructor(process: ChildProcess, address: string) {
    this.process = process;
    this.pid = process.pid!;
    this.address = address;
  }

  /** Fetches Connect and Debezium by Maven if the cache has them not yet, and waits until the worker answers. */
  static async start(): Promise<Connect> {
    const java = javaTool('java', 'Kafka Connect');
    const title = `Debezium ${DEBEZIUM} and Kafka Connect ${KAFKA}`;
    const home = await cached(`debezium-${DEBEZIUM}-connect-${KAFKA}`, (directory) =>
      copyMavenArtifacts(title, artifacts, directory),
    );
    const port = await freePort();
    const directory = path.join(testStack().directory, 'connect');
    const { configuration, logging } = await writeFiles(directory, port);
    const log = path.join(directory, 'output.log');
    const output = await open(log, 'w');
    const classpath = ['-cp', path.join(home, 'libs', '*'), `-Dlog4j.configuration=file:${logging}`];
    const main = ['org.apache.kafka.connect.cli.ConnectDistributed', configuration];
    const child = spawn(java, [...jvm, ...classpath, ...main], {
      cwd: directory,
      stdio: ['ignore', output.fd, output.fd],
    });
    await output.close();
    const connect = new Connect(child, `http://${host}:${port}`);
    try {
      await eventually('Kafka Connect', () => connect.request('GET', '/connectors'));
      return connect;
    } catch (error) {
      await connect[Symbol.asyncDispose]();
      const said = lastLines(await readFile(log, 'utf8'), 15);
      throw new Error(`Kafka Connect did not start:\n${said}`, { cause: error });
    }
  }

  /** The answer's JSON, or true where it has none; fails with what Connect says if it refuses. */
  async request<T = true>(method: 'GET' | 'PUT' | 'DELETE', resource: string, body?: object): Promise<T> {
    const response = await fetch(this.address + resource, {
      method,
      headers: { 'content-type': 'application/json' },
      body: body === undefined ? null : JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok)
      throw new Error(`${method} ${resource}: Kafka Connect answers ${response.status} ${text}`);
    return text === '' ? (true as T) : (JSON.parse(text) as T);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exited = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await exited;
  }
}

async function writeFiles(
  directory: string,
  port: number,
): Promise<{ configuration: string; logging: string }> {
  await mkdir(directory, { recursive: true });
  const configuration = path.join(directory, 'connect.properties');
  const logging = path.join(directory, 'log4j.properties');
  const properties = workerProperties(testStack().env().SA01_KAFKA_BOOTSTRAP_SERVERS!, port);
  const lines = Object.entries(properties).map(([name, value]) => `${name}=${value}\n`);
  await writeFile(configuration, lines.join(''));
  await writeFile(logging, log4j);
  return { configuration, logging };
}
