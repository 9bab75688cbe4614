import { Connection, type ConnectionLike, type ConnectionOptions } from '@temporalio/client';

/**
 * Asks Temporal's frontend for its capabilities.
 * @throws what kept it from answering
 */
export async function probeTemporal(connection: ConnectionLike, signal: AbortSignal): Promise<void> {
  await connection.withAbortSignal(signal, () => connection.workflowService.getSystemInfo({}));
}

/**
 * The connection for all probes of Temporal, opened by the first. The worker's own would hide what they are to find: it
 * tries again by itself, and after a long outage it waits up to two minutes before it connects. One for each probe would
 * leak: gRPC cannot close a connection whose server has not answered yet.
 */
export const connectionForProbes = (options: ConnectionOptions): Connection =>
  Connection.lazy({
    ...options,
    // None: not the one that tries again either.
    interceptors: [],
    channelArgs: {
      ...options.channelArgs,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1_000,
    },
  });
