import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { javaTool } from '../../stack/programs.ts';
import { kafka } from '../../stack/services/kafka.ts';
import type { Received } from './kafka.ts';
import { testStack } from './stack.ts';

const WITHIN_MS = 180_000;

/**
 * Reads a topic from its beginning with Java's consumer in read_committed until `isAll`: the judge for everything that
 * has been through faults, because it is the reference (kafkajs has a mistake of its own, see src/kafka/readCommitted.ts).
 */
export async function readByJava(
  topic: string,
  isAll: (received: Received[]) => boolean,
): Promise<Received[]> {
  const { home } = await kafka.obtain();
  const properties = ['partition', 'offset', 'headers', 'key', 'value'].map((name) => `print.${name}=true`);
  const consumer = spawn(
    javaTool('java', 'Apache Kafka'),
    [
      ...['-XX:TieredStopAtLevel=1', '-Xmx256m', '-cp', `${home}/libs/*`, 'kafka.tools.ConsoleConsumer'],
      ...['--bootstrap-server', testStack().env().SA01_KAFKA_BOOTSTRAP_SERVERS!],
      ...['--topic', topic, '--from-beginning', '--isolation-level', 'read_committed'],
      ...properties.flatMap((property) => ['--property', property]),
    ],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const late = setTimeout(() => consumer.kill('SIGKILL'), WITHIN_MS);
  const received: Received[] = [];
  try {
    for await (const line of createInterface({ input: consumer.stdout })) {
      received.push(parse(topic, line));
      if (isAll(received)) return received;
    }
    throw new Error(`Java's consumer ended after ${received.length} records of ${topic}`);
  } finally {
    clearTimeout(late);
    consumer.kill('SIGKILL');
  }
}

/** `Partition:0`, `Offset:7`, `name:value,…`, key and value with tabs between them; JSON has none of its own. */
function parse(topic: string, line: string): Received {
  const [partition, , headers, key, value] = line.split('\t') as [string, string, string, string, string];
  return {
    topic,
    partition: Number(partition.split(':')[1]),
    key: key === 'null' ? null : key,
    value,
    headers: Object.fromEntries(headers.split(',').map((header) => header.split(/:(.*)/s).slice(0, 2))),
  };
}
