import net from 'node:net';
import { addAbortSignal } from 'node:stream';
import tls from 'node:tls';
import type { ISocketFactory } from 'kafkajs';
import type { Logger } from 'pino';
import { createKafka, type KafkaConnection } from './client.ts';

/**
 * Asks whichever broker answers for the cluster, over connections of its own: a new client has to get through. They
 * are destroyed when `signal` aborts.
 * @throws what kept the brokers from answering, or that there is no controller
 */
export async function probeKafka(
  connection: KafkaConnection,
  logger: Logger,
  signal: AbortSignal,
): Promise<void> {
  const admin = createKafka(connection, logger, abortableSockets(signal)).admin();
  try {
    await admin.connect();
    const { brokers, controller } = await admin.describeCluster();
    if (brokers.length === 0) throw new Error('the cluster has no brokers');
    if (controller === null) throw new Error('the cluster has no controller');
  } finally {
    // Not waited for: a broker that has fallen silent never lets go.
    admin.disconnect().catch(() => {});
  }
}

/** kafkajs's own sockets, and destroyed when `signal` aborts, whatever the client is doing with them. */
const abortableSockets =
  (signal: AbortSignal): ISocketFactory =>
  ({ host, port, ssl, onConnect }) => {
    const servername = net.isIP(host) ? {} : { servername: host };
    const socket = ssl
      ? tls.connect({ host, port, ...servername, ...ssl }, onConnect)
      : net.connect({ host, port }, onConnect);
    return addAbortSignal(signal, socket);
  };
