import {
  addOffsetsToTxnV3,
  addPartitionsToTxnV3,
  type Connection,
  endTxnV3,
  FindCoordinatorKeyTypes,
  type FindCoordinatorKeyTypeValue,
  findCoordinatorV4,
  initProducerIdV4,
  offsetFetchV8,
  ProduceAcks,
  produceV9,
  txnOffsetCommitV3,
  Writer,
} from '@platformatic/kafka';
import type { OutboxRecord } from '../../../src/domain/outbox.ts';
import { untilReady } from '../../../src/kafka/patience.ts';
import { type BrokerConnections, REQUEST_TIMEOUT_MS } from './brokerConnections.ts';
import { protocolType } from './errors.ts';
import { encodeRecordBatch } from './recordBatch.ts';
import type { Place } from './topicLeaders.ts';

/** The records of one partition in one transaction. */
export interface PartitionRecords extends Place {
  records: OutboxRecord[];
}

/** An offset with a note, in the group that has the transactional id's name. */
export interface GroupOffset {
  topic: string;
  partition: number;
  offset: bigint;
  metadata: string;
}

/** Kafka aborts a transaction that stays open longer. Until then it holds back the read_committed readers behind it. */
const TRANSACTION_TIMEOUT_MS = 20_000;

/** What passes by itself: the markers of the last transaction, a coordinator that starts, a topic that is new. */
const NOT_YET = new Set([
  'CONCURRENT_TRANSACTIONS',
  'COORDINATOR_LOAD_IN_PROGRESS',
  'COORDINATOR_NOT_AVAILABLE',
  'UNKNOWN_TOPIC_OR_PARTITION',
]);

/** Of a coordinator that has not heard of its office yet, or has lost it: worth asking anew who it is. */
const NOT_YET_FOUND = new Set([...NOT_YET, 'NOT_COORDINATOR']);

/** Kafka counts a partition's records in 31 bits and begins again at 0. */
const SEQUENCES = 2 ** 31;

/**
 * Kafka's transaction protocol for one transactional id, in single requests of fixed versions, which brokers from 3.0
 * on understand. Nothing is ever sent again that may have had an effect: only a refusal that Kafka gives before it has
 * done anything (NOT_YET) is asked again. After any other error the producer is finished; an abort is left to whoever
 * initialises next.
 *
 *   AddOffsetsToTxn ──┐   ┌── TxnOffsetCommit ──┐
 *                     ├──▶┤                     ├──▶ EndTxn
 *   AddPartitionsToTxn┘   └── Produce, all ─────┘
 */
export class TransactionalProducer {
  private readonly connections: BrokerConnections;
  private readonly id: string;
  private coordinator!: Connection;
  private groupCoordinator!: Connection;
  private producerId = -1n;
  private producerEpoch = -1;
  /** By topic and partition. They begin at 0 with each epoch, so an error leaves nothing to correct. */
  private readonly sequences = new Map<string, number>();

  constructor(connections: BrokerConnections, transactionalId: string) {
    this.connections = connections;
    this.id = transactionalId;
  }

  /**
   * Fences every earlier producer of this id. Kafka brings the last transaction of such a one to its end before it
   * answers.
   */
  async initialise(): Promise<void> {
    const { producerId, producerEpoch } = await patiently(
      'the transaction coordinator',
      async () => {
        this.coordinator = await this.findCoordinator(FindCoordinatorKeyTypes.TRANSACTION);
        return initProducerIdV4.api.async(this.coordinator, this.id, TRANSACTION_TIMEOUT_MS, -1n, -1);
      },
      NOT_YET_FOUND,
    );
    this.producerId = producerId;
    this.producerEpoch = producerEpoch;
    // Asked for no offset: whoever answers is the coordinator.
    await patiently(
      'the group coordinator',
      async () => {
        this.groupCoordinator = await this.findCoordinator(FindCoordinatorKeyTypes.GROUP);
        return this.fetchOffsets([]);
      },
      NOT_YET_FOUND,
    );
  }

  /**
   * Writes the records and the offset in one transaction, and returns when Kafka has decided to commit it.
   * @throws BatchRejectedError for what is in the records
   */
  async commit(offset: GroupOffset, partitions: PartitionRecords[]): Promise<void> {
    const begun = this.begin(partitions);
    // Encoded while Kafka answers; each is sent to one leader.
    const [requests] = await Promise.all([this.encode(partitions), begun]);
    await Promise.all([this.commitOffset(offset), ...requests.map((request) => produce(request))]);
    await endTxnV3.api.async(this.coordinator, this.id, this.producerId, this.producerEpoch, true);
  }

  /** The offsets that were committed to `partitions` of `topic`; those that have none are left out. */
  async committed(topic: string, partitions: number[]): Promise<GroupOffset[]> {
    const { groups } = await this.fetchOffsets([{ name: topic, partitionIndexes: partitions }]);
    return groups
      .flatMap(({ topics }) => topics.flatMap((found) => found.partitions))
      .filter(({ committedOffset }) => committedOffset >= 0n)
      .map(({ partitionIndex, committedOffset, metadata }) => ({
        topic,
        partition: partitionIndex,
        offset: committedOffset,
        metadata: metadata ?? '',
      }));
  }

  private async findCoordinator(type: FindCoordinatorKeyTypeValue): Promise<Connection> {
    const { coordinators } = await findCoordinatorV4.api.async(await this.connections.toAny(), type, [
      this.id,
    ]);
    return this.connections.to(coordinators[0]!);
  }

  private fetchOffsets(topics: offsetFetchV8.OffsetFetchRequestTopic[]) {
    const group = { groupId: this.id, memberId: null, memberEpoch: -1, topics };
    return offsetFetchV8.api.async(this.groupCoordinator, [group], false);
  }

  /** While Kafka writes the markers of the last transaction it refuses the next, usually for a few milliseconds. */
  private async begin(partitions: PartitionRecords[]): Promise<void> {
    const { id: transactionalId, producerId, producerEpoch } = this;
    const offsets = patiently('the end of the previous transaction', () =>
      addOffsetsToTxnV3.api.async(
        this.coordinator,
        transactionalId,
        producerId,
        producerEpoch,
        transactionalId,
      ),
    );
    if (partitions.length === 0) return void (await offsets);
    const topics = [...Map.groupBy(partitions, ({ topic }) => topic)].map(([name, of]) => ({
      name,
      partitions: of.map(({ partition }) => partition),
    }));
    const transaction = { transactionalId, producerId, producerEpoch, verifyOnly: false, topics };
    const records = patiently('the end of the previous transaction', () =>
      addPartitionsToTxnV3.api.async(this.coordinator, [transaction]),
    );
    await Promise.all([offsets, records]);
  }

  private async commitOffset({ topic, partition, offset, metadata }: GroupOffset): Promise<void> {
    const committed = {
      partitionIndex: partition,
      committedOffset: offset,
      committedLeaderEpoch: -1,
      committedMetadata: metadata,
    };
    // Not a member of the group: it has none.
    await patiently('the topic of the offset', () =>
      txnOffsetCommitV3.api.async(
        this.groupCoordinator,
        this.id,
        this.id,
        this.producerId,
        this.producerEpoch,
        -1,
        '',
        null,
        [{ name: topic, partitions: [committed] }],
      ),
    );
  }

  private async encode(partitions: PartitionRecords[]): Promise<ProduceRequest[]> {
    const timestamp = Date.now();
    const byLeader = Map.groupBy(partitions, ({ leader }) => `${leader.host}:${leader.port}`);
    return Promise.all(
      [...byLeader.values()].map(async (led) => ({
        connection: await this.connections.to(led[0]!.leader),
        transactionalId: this.id,
        batches: led.map(({ topic, partition, records }) => ({
          topic,
          partition,
          batch: encodeRecordBatch(records, this.origin(topic, partition, records.length), timestamp),
        })),
      })),
    );
  }

  private origin(topic: string, partition: number, records: number) {
    const place = `${topic}/${partition}`;
    const sequence = this.sequences.get(place) ?? 0;
    this.sequences.set(place, (sequence + records) % SEQUENCES);
    return { producerId: this.producerId, producerEpoch: this.producerEpoch, sequence };
  }
}

type ProduceResponse = produceV9.ProduceResponse;

interface ProduceRequest {
  connection: Connection;
  transactionalId: string;
  batches: { topic: string; partition: number; batch: Buffer }[];
}

/** The library's own encoder of this request would encode the records as well, at five times the cost. */
async function produce({ connection, transactionalId, batches }: ProduceRequest): Promise<void> {
  const topics = [...Map.groupBy(batches, ({ topic }) => topic)];
  const payload = () =>
    Writer.create()
      .appendString(transactionalId)
      .appendInt16(ProduceAcks.ALL)
      .appendInt32(REQUEST_TIMEOUT_MS)
      .appendArray(topics, (writer, [topic, ofTopic]) => {
        writer.appendString(topic).appendArray(ofTopic, (each, { partition, batch }) => {
          each.appendInt32(partition).appendBytes(batch);
        });
      })
      .appendTaggedFields();
  const { promise, resolve, reject } = Promise.withResolvers<ProduceResponse>();
  const { key, version } = produceV9.api;
  connection.send(key, version, payload, produceV9.parseResponse, true, true, (error, response) =>
    error ? reject(error) : resolve(response!),
  );
  assertAllAcknowledged(batches, await promise);
}

/** An answer without an error for each partition; Kafka gives nothing else, but this is what the commit rests on. */
function assertAllAcknowledged(sent: ProduceRequest['batches'], { responses }: ProduceResponse): void {
  const missing = new Set(sent.map(({ topic, partition }) => `${topic}/${partition}`));
  for (const { name, partitionResponses } of responses) {
    for (const { index, errorCode } of partitionResponses)
      if (errorCode === 0) missing.delete(`${name}/${index}`);
  }
  if (missing.size > 0) throw new Error(`no broker acknowledged ${[...missing].join(', ')}`);
}

async function patiently<T>(what: string, request: () => Promise<T>, notYet = NOT_YET): Promise<T> {
  let answer!: T;
  await untilReady(what, async () => {
    try {
      answer = await request();
      return true;
    } catch (error) {
      if (notYet.has(protocolType(error) ?? '')) return false;
      throw error;
    }
  });
  return answer;
}
