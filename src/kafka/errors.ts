import kafkajs from 'kafkajs';
import { OrchestratorError } from '../domain/errors.ts';
import { describeRejection, type Rejection, type RejectionCode } from '../domain/outbox.ts';

// kafkajs is CommonJS, and Node finds only some of its exports by name.
const { KafkaJSNonRetriableError, KafkaJSProtocolError } = kafkajs;

/** Kafka's last word on these very records: a second try ends the same way, so the message is at fault. */
const REJECTIONS: Record<string, RejectionCode> = {
  MESSAGE_TOO_LARGE: 'record_too_large', // 10: larger than the topic's max.message.bytes
  RECORD_LIST_TOO_LARGE: 'record_too_large', // 18: larger than a whole log segment
  INVALID_TOPIC_EXCEPTION: 'invalid_topic', // 17
  TOPIC_AUTHORIZATION_FAILED: 'topic_forbidden', // 29: no right to write to it, or to create it
  OPERATION_NOT_ATTEMPTED: 'topic_forbidden', // 55: another topic of the same batch is forbidden, and named second
  POLICY_VIOLATION: 'topic_forbidden', // 44: the cluster's create-topic policy refuses it
  INVALID_TIMESTAMP: 'invalid_record', // 32
  INVALID_RECORD: 'invalid_record', // 87: for example no key on a compacted topic
};

/** A newer producer holds the transactional id, or the coordinator ended our transaction for it. */
const FENCED = new Set(['INVALID_PRODUCER_EPOCH', 'PRODUCER_FENCED', 'INVALID_PRODUCER_ID_MAPPING']);
/** PRODUCER_FENCED is newer than kafkajs, which knows it by its number alone. */
const PRODUCER_FENCED = 90;

/**
 * Kafka refused the batch for what is in it, or is known to refuse it. Which record is at fault is not said. `topic` is
 * there if it was known before anything was sent that this topic, or a record of it, is refused.
 */
export class BatchRejectedError extends OrchestratorError {
  readonly rejection: Rejection;
  readonly topic: string | undefined;

  constructor(rejection: Rejection, { topic, cause }: { topic?: string | undefined; cause?: unknown } = {}) {
    super('batch_rejected', describeRejection(rejection), { cause });
    this.rejection = rejection;
    this.topic = topic;
  }
}

/** What an error of the client means to a relay: it was fenced, or (all the rest) Kafka is away. */
export function fromKafka(error: unknown): OrchestratorError {
  if (error instanceof OrchestratorError) return error;
  const { type, message } = described(error);
  return new OrchestratorError(FENCED.has(type) ? 'relay_fenced' : 'kafka_unavailable', message, {
    cause: error,
  });
}

/**
 * Runs work that only concerns the records of a batch, or of one `topic` in it: what Kafka says against it, it says
 * against them. The same answer to anything else (a mark, a transactional id) is no message's fault.
 * @throws BatchRejectedError
 */
export async function rejectable<T>(work: () => Promise<T>, topic?: string): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { type, message } = described(error);
    const code = REJECTIONS[type];
    throw code ? new BatchRejectedError({ code, message }, { topic, cause: error }) : error;
  }
}

function described(error: unknown): { type: string; message: string } {
  const root = rootCause(error);
  const type = protocolType(error) ?? '';
  const message = root instanceof Error ? root.message : String(root);
  return { type, message: type ? `${type}: ${message}` : message };
}

/** Kafka's name for an error, if it is Kafka that answered with one. */
export function protocolType(error: unknown): string | undefined {
  const root = rootCause(error);
  if (!(root instanceof KafkaJSProtocolError)) return undefined;
  return root.code === PRODUCER_FENCED ? 'PRODUCER_FENCED' : root.type;
}

function rootCause(error: unknown): unknown {
  // KafkaJSAggregateError, which kafkajs throws but does not export.
  if (error instanceof Error && 'errors' in error && Array.isArray(error.errors))
    return rootCause(error.errors[0]);
  if (error instanceof KafkaJSNonRetriableError && error.cause) return rootCause(error.cause);
  return error;
}
