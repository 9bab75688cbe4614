import { type Dialogue, FaultProxy } from './faultProxy.ts';
import { splitter } from './splitter.ts';
import { testStack } from './stack.ts';

/** Kafka's numbers of the requests that a transaction and a takeover are made of. */
const KINDS: Record<number, string> = {
  0: 'Produce',
  3: 'Metadata',
  9: 'OffsetFetch',
  10: 'FindCoordinator',
  22: 'InitProducerId',
  24: 'AddPartitionsToTxn',
  25: 'AddOffsetsToTxn',
  26: 'EndTxn',
  28: 'TxnOffsetCommit',
};

/** These tell the client where the broker listens. */
const NAMES_THE_BROKER = new Set(['Metadata', 'FindCoordinator']);

/** Gives the answer of this kind that the client gets: the broker's own, or another. */
export type Answer = (kind: string | undefined, bytes: Buffer) => Buffer;

/** A proxy to the run's broker. Clients that start with its address stay on it: it hides the broker's own. */
export function kafkaProxy(answer: Answer = (_kind, bytes) => bytes): Promise<FaultProxy> {
  const { kafka } = testStack().ports;
  return FaultProxy.to(kafka, (proxyPort) => kafkaDialogue(kafka, proxyPort, answer));
}

export const bootstrapServers = ({ port }: FaultProxy): string[] => [`127.0.0.1:${port}`];

/**
 * Answers of one kind as a broker gives them that lags behind itself: the last fresh one, again and again. Kafka does
 * that with committed offsets, for some milliseconds and rarely.
 */
export class StaleAnswers {
  private readonly kind: string;
  private last: Buffer | undefined;
  private left = 0;

  constructor(kind: string) {
    this.kind = kind;
  }

  /** The next so many answers repeat the last one. */
  repeat(times: number): void {
    this.left = times;
  }

  readonly answer: Answer = (kind, bytes) => {
    if (kind !== this.kind) return bytes;
    if (this.left === 0 || !this.last) {
      this.last = Buffer.from(bytes);
      return bytes;
    }
    this.left -= 1;
    const stale = Buffer.from(this.last);
    bytes.copy(stale, CORRELATION_ID, CORRELATION_ID, CORRELATION_ID + 4);
    return stale;
  };
}

/** Where an answer says which request it answers. */
const CORRELATION_ID = 4;

/** Every message is its length in 32 bits and as many bytes; an answer carries its request's correlation id. */
function kafkaDialogue(brokerPort: number, proxyPort: number, answer: Answer): Dialogue {
  const kindOf = new Map<number, string | undefined>();
  const lengthOf = (bytes: Buffer) => (bytes.length < 4 ? undefined : 4 + bytes.readInt32BE(0));
  return {
    request: splitter(lengthOf, (bytes) => {
      const kind = KINDS[bytes.readInt16BE(4)];
      kindOf.set(bytes.readInt32BE(8), kind);
      return { bytes, kind };
    }),
    response: splitter(lengthOf, (bytes) => {
      const correlationId = bytes.readInt32BE(CORRELATION_ID);
      const kind = kindOf.get(correlationId);
      kindOf.delete(correlationId);
      if (kind && NAMES_THE_BROKER.has(kind)) rename(bytes, brokerPort, proxyPort);
      return { bytes: answer(kind, bytes), kind };
    }),
  };
}

/** An address is the host's name and, right behind it, the port in 32 bits: so in every version of the protocol. */
function rename(bytes: Buffer, brokerPort: number, proxyPort: number): void {
  const address = (port: number) => {
    const number = Buffer.alloc(4);
    number.writeInt32BE(port);
    return Buffer.concat([Buffer.from('127.0.0.1'), number]);
  };
  const sought = address(brokerPort);
  for (let at = bytes.indexOf(sought); at >= 0; at = bytes.indexOf(sought, at + sought.length)) {
    address(proxyPort).copy(bytes, at);
  }
}
