import kafkajs from 'kafkajs';
import { OrchestratorError } from '../domain/errors.ts';
import type { Rejection, RejectionCode } from '../domain/outbox.ts';

// kafkajs is CommonJS, and Node finds only some of its exports by name.
const { KafkaJSNumberOfRetriesExceeded, KafkaJSProtocolError } = kafkajs;

/** Kafka's last word on these very records: a second try ends the same way, so the message is at fault. */
const REJECTIONS: Record<string, RejectionCode> = {
  MESSAGE_TOO_LARGE: 'record_too_large', // 10: larger than the topic's max.message.bytes
  RECORD_LIST_TOO_LARGE: 'record_too_large', // 18: larger than a whole log segment
  INVALID_TOPIC_EXCEPTION: 'invalid_topic', // 17
  TOPIC_AUTHORIZATION_FAILED: 'topic_forbidden', // 29
  POLICY_VIOLATION: 'topic_forbidden', // 44: the cluster's create-topic policy refuses it
  INVALID_TIMESTAMP: 'invalid_record', // 32
  CORRUPT_MESSAGE: 'invalid_record', // 2
  INVALID_RECORD: 'invalid_record', // 87: for example no key on a compacted topic
};

/** A newer producer holds the transactional id, or the coordinator ended our transaction for it. */
const FENCED = new Set(['INVALID_PRODUCER_EPOCH', 'PRODUCER_FENCED', 'INVALID_PRODUCER_ID_MAPPING']);
/** PRODUCER_FENCED is newer than kafkajs, which knows it by its number alone. */
const PRODUCER_FENCED = 90;

/** Kafka refused the batch for what is in it; which record is at fault is not said. */
export class BatchRejectedError extends OrchestratorError {
  readonly rejection: Rejection;

  constructor(rejection: Rejection, cause: unknown) {
    super('batch_rejected', `${rejection.code}: ${rejection.message}`, { cause });
    this.rejection = rejection;
  }
}

/** The one place where the client's errors get their meaning: rejected, fenced, or (all the rest) Kafka is away. */
export function fromKafka(error: unknown): OrchestratorError {
  if (error instanceof OrchestratorError) return error;
  const root = rootCause(error);
  const type = protocolType(root);
  const message = root instanceof Error ? root.message : String(root);
  const rejection = type && REJECTIONS[type];
  if (rejection) return new BatchRejectedError({ code: rejection, message: `${type}: ${message}` }, error);
  if (type && FENCED.has(type))
    return new OrchestratorError('relay_fenced', `${type}: ${message}`, { cause: error });
  return new OrchestratorError('kafka_unavailable', type ? `${type}: ${message}` : message, { cause: error });
}

export function protocolType(error: unknown): string | undefined {
  if (!(error instanceof KafkaJSProtocolError)) return undefined;
  return error.code === PRODUCER_FENCED ? 'PRODUCER_FENCED' : error.type;
}

function rootCause(error: unknown): unknown {
  // KafkaJSAggregateError, which kafkajs throws but does not export.
  if (error instanceof Error && 'errors' in error && Array.isArray(error.errors))
    return rootCause(error.errors[0]);
  if (error instanceof KafkaJSNumberOfRetriesExceeded && error.cause) return rootCause(error.cause);
  return error;
}
