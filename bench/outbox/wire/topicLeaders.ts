import { type Broker, metadataV12 } from '@platformatic/kafka';
import { untilReady } from '../../../src/kafka/patience.ts';
import type { BrokerConnections } from './brokerConnections.ts';
import { protocolType } from './errors.ts';

/** A partition and the broker that takes its records. */
export interface Place {
  topic: string;
  partition: number;
  leader: Broker;
}

const UNKNOWN = 'UNKNOWN_TOPIC_OR_PARTITION';
/** What brokers say of a topic that was created a moment ago. */
const NOT_YET = new Set([UNKNOWN, 'LEADER_NOT_AVAILABLE']);

/**
 * Who leads the partitions of topics, asked once for each topic. A leader that has moved since then refuses, which
 * ends the producer, and its successor asks again.
 */
export class TopicLeaders {
  private readonly connections: BrokerConnections;
  private readonly leaders = new Map<string, Broker[]>();

  constructor(connections: BrokerConnections) {
    this.connections = connections;
  }

  /** Those of `topics` that were not asked for yet. */
  unknown(topics: string[]): string[] {
    return [...new Set(topics)].filter((topic) => !this.leaders.has(topic));
  }

  /** Whether the topic exists, as far as the broker knows that is asked. */
  async exists(topic: string): Promise<boolean> {
    try {
      await this.ask([topic]);
      return true;
    } catch (error) {
      if (protocolType(error) === UNKNOWN) return false;
      throw error;
    }
  }

  /** Learns the leaders of topics, which exist. */
  async learn(topics: string[]): Promise<void> {
    if (topics.length === 0) return;
    await untilReady(`the leaders of ${topics.join(', ')}`, async () => {
      try {
        await this.ask(topics);
        return true;
      } catch (error) {
        if (NOT_YET.has(protocolType(error) ?? '')) return false;
        throw error;
      }
    });
  }

  /** By partition; the number of partitions is its length. */
  of(topic: string): Broker[] {
    return this.leaders.get(topic)!;
  }

  private async ask(topics: string[]): Promise<void> {
    const answer = await metadataV12.api.async(await this.connections.toAny(), topics, false, false);
    const brokers = new Map(answer.brokers.map((broker) => [broker.nodeId, broker]));
    for (const { name, partitions } of answer.topics) {
      const leaders: Broker[] = [];
      for (const { partitionIndex, leaderId } of partitions) leaders[partitionIndex] = brokers.get(leaderId)!;
      this.leaders.set(name!, leaders);
    }
  }
}
