import { once } from 'node:events';
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
  request as send,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { withoutHeader } from './resign.ts';
import { flipped } from './storage.ts';

/** What S3, or the way to it, does wrong with a request. */
export type StorageFault =
  /** The request's body arrives otherwise than it was sent. */
  | 'flips request'
  /** 200, and nothing was stored. */
  | 'pretends'
  /** S3 gets half of the body, the client its 200. */
  | 'truncates'
  /** No answer at all. */
  | 'hangs'
  /** The connection ends when half of the body has come. */
  | 'drops request'
  /** The request is done, its answer is lost. */
  | 'drops response'
  /** The request is done, and its answer does not come. */
  | 'keeps response'
  /** The answer's body arrives otherwise than it was sent. */
  | 'flips response'
  /** The answer says nothing of checksums, as older servers do. */
  | 'tells no checksum'
  /** S3 answers this; with its code, if it is a body's request. */
  | { status: number; code: string };

/** The objects and parts by which the tier finds out what S3 honours: nothing about an upload. */
const CANARY = /\/uploads-canary\/|[?&]partNumber=10000\b/i;

export interface StorageRequest {
  method: string;
  /** Path and query. */
  url: string;
  /** This one is the how-manieth of its method, from 1. */
  count: number;
  headers: IncomingHttpHeaders;
}

/**
 * Stands before an S3 server and does wrong what it is told to; else it passes everything on as it is. Requests about the
 * tier's canaries are neither counted nor met by the faults of the others.
 */
export class StorageProxy implements AsyncDisposable {
  /** What happens to all requests about the canaries. */
  canaryFault: StorageFault | undefined;
  /** Strips If-None-Match from every request, which its client signed with this secret. */
  ignoresConditions: { secretAccessKey: string } | undefined;
  private fault: (request: StorageRequest) => StorageFault | undefined = () => undefined;
  private readonly server: Server;
  private readonly target: URL;
  private counts = new Map<string, number>();
  private unanswered = 0;

  private constructor(server: Server, target: URL) {
    this.server = server;
    this.target = target;
  }

  static async to(endpoint: string): Promise<StorageProxy> {
    const server = createServer();
    const proxy = new StorageProxy(server, new URL(endpoint));
    // Whoever gives up in between is none of the proxy's affair.
    server.on(
      'request',
      (incoming, answer) => void proxy.handle(incoming, answer).catch(() => answer.destroy()),
    );
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Requests of this method since the fault was told. */
  count(method: string): number {
    return this.counts.get(method) ?? 0;
  }

  /** Requests since the fault was told that get no answer. */
  get held(): number {
    return this.unanswered;
  }

  does(fault: (request: StorageRequest) => StorageFault | undefined): void {
    this.counts = new Map();
    this.unanswered = 0;
    this.fault = fault;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }

  private countedFault({ method = '', url = '', headers }: IncomingMessage): StorageFault | undefined {
    const count = this.count(method) + 1;
    this.counts.set(method, count);
    return this.fault({ method, url, count, headers });
  }

  private async handle(incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const { method = '', url = '' } = incoming;
    const fault = CANARY.test(url) ? this.canaryFault : this.countedFault(incoming);
    if (fault === 'hangs') return void this.unanswered++;
    const body = await buffer(incoming);
    if (fault === 'pretends') return pretend(answer);
    if (typeof fault === 'object') return refuse(answer, fault);
    const cut = fault === 'truncates' || fault === 'drops request';
    const sent = cut ? body.subarray(0, body.length / 2) : fault === 'flips request' ? flipped(body) : body;
    // The host that was signed is the proxy's.
    const { hostname: host, port } = this.target;
    const secret = this.ignoresConditions?.secretAccessKey;
    const request = { method, url, headers: incoming.headers };
    const headers = secret ? withoutHeader(request, 'if-none-match', secret) : incoming.headers;
    const upstream = send({ host, port, method, path: url, headers, agent: false });
    upstream.on('error', () => answer.destroy());
    upstream.write(sent);
    if (cut) {
      upstream.destroy();
      return fault === 'truncates' ? pretend(answer) : void answer.destroy();
    }
    upstream.end();
    const [response] = (await once(upstream, 'response')) as [IncomingMessage];
    const content = await buffer(response);
    if (fault === 'drops response') return void answer.destroy();
    if (fault === 'keeps response') return void this.unanswered++;
    const told = Object.entries(response.headers).filter(
      ([name]) => fault !== 'tells no checksum' || !name.startsWith('x-amz-checksum'),
    );
    answer.writeHead(response.statusCode!, Object.fromEntries(told) as Record<string, string>);
    answer.end(fault === 'flips response' ? flipped(content) : content);
  }
}

/** What is done: an object or a part put, or an upload in parts completed. */
function pretend(answer: ServerResponse): void {
  answer
    .setHeader('ETag', '"0"')
    .end('<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>');
}

function refuse(answer: ServerResponse, { status, code }: { status: number; code: string }): void {
  answer.writeHead(status, { 'Content-Type': 'application/xml' });
  answer.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>as the test wants</Message></Error>`);
}
