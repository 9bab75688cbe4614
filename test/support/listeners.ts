import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';

const HOST = '127.0.0.1';

export interface Listener extends AsyncDisposable {
  /** host:port */
  address: string;
  port: number;
  /** The connections that are open at the moment. */
  open: Set<Socket>;
  /** How many there have been. */
  accepted(): number;
}

/** Takes every connection and whatever is sent, and never says a word. */
export const silentListener = (): Promise<Listener> =>
  listen(createServer((socket) => void socket.resume().on('error', () => {})));

/** A small HTTP server that says what a test wants it to say. */
export const httpListener = (answer: RequestListener): Promise<Listener> => listen(createHttpServer(answer));

async function listen(server: Server): Promise<Listener> {
  const open = new Set<Socket>();
  let accepted = 0;
  server.on('connection', (socket: Socket) => {
    accepted += 1;
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  });
  server.listen(0, HOST);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    address: `${HOST}:${port}`,
    port,
    open,
    accepted: () => accepted,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
