import { isIP } from 'node:net';
import { type Broker, Connection, type ConnectionOptions, NetworkError } from '@platformatic/kafka';

const CLIENT_ID = 'somaagent-orchestrator';
/** A broker that does not answer within this time counts as away. */
export const REQUEST_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 6_000;

/**
 * One connection to each broker that is needed, opened when it is first asked for. A request that gets no answer in
 * ten seconds, or whose connection breaks, fails; nothing is sent twice.
 */
export class BrokerConnections {
  private readonly bootstrap: Broker[];
  private readonly options: ConnectionOptions;
  private readonly connections = new Map<string, Promise<Connection>>();
  private readonly opened: Connection[] = [];
  private isClosed = false;

  constructor(brokers: string[]) {
    this.bootstrap = brokers.map(toBroker);
    this.options = { connectTimeout: CONNECT_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS };
  }

  /** To the first of the configured brokers that can be reached. */
  async toAny(): Promise<Connection> {
    let failure: unknown;
    for (const broker of this.bootstrap) {
      try {
        return await this.to(broker);
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }

  /** A connection that broke stays broken: whoever made these connections is finished with its first error. */
  async to(broker: Broker): Promise<Connection> {
    if (this.isClosed) throw new NetworkError('the connections are closed');
    const name = `${broker.host}:${broker.port}`;
    const connection = this.connections.get(name) ?? this.open(broker);
    this.connections.set(name, connection);
    return connection;
  }

  /** Ends all connections at once, whatever their peers do; requests under way fail. */
  async close(): Promise<void> {
    this.isClosed = true;
    await Promise.all(
      this.opened.splice(0).map(async (connection) => {
        const closed = connection.close();
        // A close alone first waits until the peer has taken what was written, and a frozen one never does.
        connection.socket?.destroy();
        await closed;
      }),
    );
  }

  private async open({ host, port }: Broker): Promise<Connection> {
    // For TLS: the name that the certificate is asked for; an address is none.
    const connection = new Connection(CLIENT_ID, { ...this.options, tlsServerName: isIP(host) === 0 });
    // The error comes back from the request as well; without a listener it would end the process.
    connection.on('error', () => {});
    this.opened.push(connection);
    await connection.connect(host, port);
    return connection;
  }
}

function toBroker(address: string): Broker {
  const colon = address.lastIndexOf(':');
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  return { host, port: Number(address.slice(colon + 1)) };
}
