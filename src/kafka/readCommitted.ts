// Makes kafkajs's consumer read as read_committed says. kafkajs 2.2.4 takes Kafka's list of aborted transactions for
// sorted by first offset, while Kafka sorts it by last offset, and it takes one entry of the list for each record. So
// where transactions of several producers were aborted in another order than they began, or a fetch begins inside of
// two of them, it shows records that were never committed. Whatever consumes with kafkajs imports this file.
import { createRequire } from 'node:module';

interface FetchedRecord {
  offset: string;
  key: Buffer | null;
  isControlRecord: boolean;
  batchContext: { producerId: string; inTransaction: boolean };
}
interface FetchedPartition {
  abortedTransactions?: { producerId: string; firstOffset: string }[] | null;
  messages: FetchedRecord[];
}
interface FetchResponse {
  responses: { partitions: FetchedPartition[] }[];
}

const ABORT_MARKER = Buffer.from([0, 0, 0, 0]);

const { prototype } = createRequire(import.meta.url)('kafkajs/src/broker');
const fetch: (request: unknown) => Promise<FetchResponse> = prototype.fetch;

prototype.fetch = async function (request: unknown): Promise<FetchResponse> {
  const response = await fetch.call(this, request);
  for (const { partitions } of response.responses) partitions.forEach(hideAborted);
  return response;
};

/** Control records are not shown, but their offsets count: so aborted ones become such. */
function hideAborted(partition: FetchedPartition): void {
  const begins = (partition.abortedTransactions ?? [])
    .map(({ producerId, firstOffset }) => ({ producerId, at: BigInt(firstOffset) }))
    .sort((one, other) => Number(one.at - other.at));
  partition.abortedTransactions = [];
  const aborting = new Set<string>();
  for (const record of partition.messages) {
    const { producerId, inTransaction } = record.batchContext ?? {};
    while (begins[0] && begins[0].at <= BigInt(record.offset)) aborting.add(begins.shift()!.producerId);
    if (record.isControlRecord) {
      if (record.key?.equals(ABORT_MARKER)) aborting.delete(producerId);
    } else if (inTransaction && aborting.has(producerId)) {
      record.isControlRecord = true;
    }
  }
}
