import { once } from 'node:events';
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const HOST = '127.0.0.1';

export type Direction = 'request' | 'response';

/** One whole message of a protocol. `kind` names the request, on the response to it as well. */
export interface Message {
  bytes: Buffer;
  kind?: string | undefined;
}

/** Cuts both streams of one connection into whole messages; what has not arrived in full is kept for the next chunk. */
export type Dialogue = Record<Direction, (chunk: Buffer) => Iterable<Message>>;

/** A protocol that the proxy does not look into. */
const opaque = (): Dialogue => ({
  request: (bytes) => [{ bytes }],
  response: (bytes) => [{ bytes }],
});

export interface LossOptions {
  kind: string;
  direction: Direction;
  /** What the client sees of it: its connection is reset, or nothing at all, until a timeout of its own. */
  effect: 'cut' | 'silence';
  /** The first so many messages of this kind pass. */
  after?: number;
}

/** One message that is to be lost. Armed on several proxies, it happens on the one that the message comes to first. */
export class Loss {
  readonly options: LossOptions;
  private readonly happened = Promise.withResolvers<boolean>();
  private passes: number;
  private over = false;

  constructor(options: LossOptions) {
    this.options = options;
    this.passes = options.after ?? 0;
  }

  get isOver(): boolean {
    return this.over;
  }

  /** Whether this is the message. */
  takes({ kind }: Message, direction: Direction): boolean {
    if (this.over || kind !== this.options.kind || direction !== this.options.direction) return false;
    this.passes -= 1;
    if (this.passes >= 0) return false;
    this.over = true;
    this.happened.resolve(true);
    return true;
  }

  /** Whether it happens within `ms`; after that it happens no more. */
  async within(ms: number): Promise<boolean> {
    const timer = setTimeout(() => {
      this.over = true;
      this.happened.resolve(false);
    }, ms);
    const happened = await this.happened.promise;
    clearTimeout(timer);
    return happened;
  }
}

/** The client's end and the server's end of one connection. `deaf`: what still comes is thrown away. */
interface Link {
  client: Socket;
  server: Socket;
  dialogue: Dialogue;
  deaf: boolean;
}

/**
 * Stands between clients and one port of 127.0.0.1, and does what networks do: cut connections, fall silent for a
 * while, lose one message of a kind. Without a fault it passes everything on.
 */
export class FaultProxy implements AsyncDisposable {
  readonly port: number;
  private readonly server: Server;
  private readonly links = new Set<Link>();
  private readonly stalls: Record<Direction, Promise<void> | undefined> = {
    request: undefined,
    response: undefined,
  };
  private losses: Loss[] = [];

  private constructor(server: Server) {
    this.server = server;
    this.port = (server.address() as AddressInfo).port;
  }

  /** Listens on a free port. `dialogue` is called for every connection, with the port that clients know. */
  static async to(target: number, dialogue: (proxyPort: number) => Dialogue = opaque): Promise<FaultProxy> {
    const server = createServer({ noDelay: true });
    server.listen(0, HOST);
    await once(server, 'listening');
    const proxy = new FaultProxy(server);
    server.on('connection', (client) => {
      const upstream = createConnection({ host: HOST, port: target, noDelay: true });
      void proxy.connect({ client, server: upstream, dialogue: dialogue(proxy.port), deaf: false });
    });
    return proxy;
  }

  /** Resets every connection. New ones are welcome. */
  cut(): void {
    for (const link of this.links) cut(link);
  }

  /**
   * Passes nothing on in these directions for `ms`, of new connections neither, and then goes on with what has come
   * meanwhile, even where its sender has given up: a late request is carried out. With `cut` it is lost instead.
   */
  stall(directions: Direction[], ms: number, end: 'continue' | 'cut' = 'continue'): Promise<void> {
    const over = delay(ms).then(() => {
      for (const direction of directions) this.stalls[direction] = undefined;
      if (end === 'cut') this.cut();
    });
    for (const direction of directions) this.stalls[direction] = over;
    return over;
  }

  arm(loss: Loss): void {
    this.losses = [...this.losses.filter(({ isOver }) => !isOver), loss];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    this.cut();
    await closed;
  }

  private async connect(link: Link): Promise<void> {
    const { client, server } = link;
    // What goes wrong with one end is told by its closing; without a listener it would end this process.
    for (const socket of [client, server]) socket.on('error', () => {});
    this.links.add(link);
    await Promise.all([
      this.carry(link, 'request', client, server),
      this.carry(link, 'response', server, client),
    ]);
    this.links.delete(link);
  }

  private async carry(link: Link, direction: Direction, from: Socket, to: Socket): Promise<void> {
    try {
      for await (const chunk of from) {
        for (const message of link.dialogue[direction](chunk)) await this.pass(link, direction, message, to);
      }
      to.end();
    } catch {
      to.destroy();
    }
  }

  private async pass(link: Link, direction: Direction, message: Message, to: Socket): Promise<void> {
    while (this.stalls[direction]) await this.stalls[direction];
    if (link.deaf) return;
    const loss = this.losses.find((armed) => armed.takes(message, direction));
    if (loss) {
      if (loss.options.effect === 'cut') cut(link);
      else link.deaf = true;
      return;
    }
    if (!to.write(message.bytes)) await untilDrained(to);
  }
}

async function untilDrained(to: Socket): Promise<void> {
  const over = new AbortController();
  const { signal } = over;
  await Promise.race([once(to, 'drain', { signal }), once(to, 'close', { signal })]);
  over.abort();
}

function cut(link: Link): void {
  link.deaf = true;
  link.client.resetAndDestroy();
  link.server.destroy();
}
