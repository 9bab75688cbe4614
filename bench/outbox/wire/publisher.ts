// The transaction protocol of our own, request by request, on @platformatic/kafka's connections and encoders: what a
// faster client would bring. A contender of the benchmark, with what that needs: topics exist, errors are not told apart.
import { randomUUID } from 'node:crypto';
import type { OutboxRecord } from '../../../src/domain/outbox.ts';
import type { Mark } from '../../../src/domain/outboxTakeover.ts';
import { BARRIER_PARTITION, MARK_PARTITION, MARK_TOPIC } from '../../../src/kafka/outboxMarks.ts';
import { type OutboxPublisher, partitionOf } from '../../../src/kafka/outboxPublisher.ts';
import { untilReady } from '../../../src/kafka/patience.ts';
import { BrokerConnections } from './brokerConnections.ts';
import { TopicLeaders } from './topicLeaders.ts';
import { type PartitionRecords, TransactionalProducer } from './transactionalProducer.ts';

export class WirePublisher implements OutboxPublisher {
  private readonly connections: BrokerConnections;
  private readonly producer: TransactionalProducer;
  private readonly leaders: TopicLeaders;

  constructor(brokers: string[], deploymentId: string, shard: number) {
    this.connections = new BrokerConnections(brokers);
    this.producer = new TransactionalProducer(this.connections, `somaagent-outbox-${deploymentId}-${shard}`);
    this.leaders = new TopicLeaders(this.connections);
  }

  async initialise(): Promise<Mark | undefined> {
    await this.producer.initialise();
    const token = randomUUID();
    const barrier = { topic: MARK_TOPIC, partition: BARRIER_PARTITION, offset: 0n, metadata: token };
    await this.producer.commit(barrier, []);
    return this.readMark(token);
  }

  async publish({ number, batchId }: Mark, records: OutboxRecord[]): Promise<void> {
    const unknown = this.leaders.unknown(records.map(({ topic }) => topic));
    if (unknown.length > 0) await this.leaders.learn(unknown);
    const mark = { topic: MARK_TOPIC, partition: MARK_PARTITION, offset: BigInt(number), metadata: batchId };
    await this.producer.commit(mark, this.place(records));
  }

  close(): Promise<void> {
    return this.connections.close();
  }

  private async readMark(token: string): Promise<Mark | undefined> {
    let mark: Mark | undefined;
    await untilReady('the barrier offset', async () => {
      const found = await this.producer.committed(MARK_TOPIC, [MARK_PARTITION, BARRIER_PARTITION]);
      const at = (partition: number) => found.find((each) => each.partition === partition);
      if (at(BARRIER_PARTITION)?.metadata !== token) return false;
      const marked = at(MARK_PARTITION);
      mark = marked && { number: Number(marked.offset), batchId: marked.metadata };
      return true;
    });
    return mark;
  }

  private place(records: OutboxRecord[]): PartitionRecords[] {
    const places = new Map<string, PartitionRecords>();
    for (const record of records) {
      const { topic } = record;
      const leaders = this.leaders.of(topic);
      const partition = partitionOf(record, leaders.length);
      const name = `${topic}/${partition}`;
      const place = places.get(name);
      if (place) place.records.push(record);
      else places.set(name, { topic, partition, leader: leaders[partition]!, records: [record] });
    }
    return [...places.values()];
  }
}
