import { ProtocolError } from '@platformatic/kafka';

/** Kafka's name for an error, if it is Kafka that answered with one. */
export function protocolType(error: unknown): string | undefined {
  if (error instanceof AggregateError) return protocolType(error.errors[0]);
  return error instanceof ProtocolError ? error.apiId : undefined;
}
