// A stand-in for SomaBrain, whose own server is no part of this repository: its health and memory endpoints, and a way to
// make it misbehave. As any service that has a /health it can also stand in for the gateway.
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { host } from '../ports.ts';
import { goodMemory, isMemoryPath, type MemoryBehaviour, MemoryShelf } from './memories.ts';

export interface Behaviour extends MemoryBehaviour {
  /** What it says of itself. `drop` ends the connection without an answer, `silent` keeps it open without one. */
  health: 'ready' | 'not ready' | '503' | 'drop' | 'silent';
  /** How long it takes over each answer. */
  delaySeconds: number;
  /** The share of answers that are a 503 instead, spread evenly. */
  errorRate: number;
}

const good: Behaviour = { health: 'ready', delaySeconds: 0, errorRate: 0, ...goodMemory };
const healthEndpoints = ['/health', '/healthz', '/readyz'];

/**
 *   GET /health, /healthz, /readyz   as the behaviour says
 *   POST /memory/remember, /memory/remember/batch, /v1/memory/remember   as far as the behaviour has them
 *   PUT /stand-in/behaviour          changes it, by a JSON object with some of its fields; answers with all of them
 */
export class SomaBrainStandIn {
  /** How often its health was asked for. */
  asked = 0;
  /** What it remembers. */
  readonly shelf = new MemoryShelf();
  private behaviour = { ...good };
  private readonly server: Server;
  private readonly delayed = new Set<NodeJS.Timeout>();

  constructor() {
    this.server = createServer((request, response) => {
      this.answer(request, response).catch((error: Error) => send(response, 400, { detail: error.message }));
    });
  }

  /** Listens on 127.0.0.1, on any free port by default. */
  async listen(port = 0): Promise<void> {
    this.server.listen(port, host);
    await once(this.server, 'listening');
  }

  get url(): string {
    return `http://${host}:${(this.server.address() as AddressInfo).port}`;
  }

  /** Changes some of its behaviour; the rest stays. */
  behave(behaviour: Partial<Behaviour>): void {
    this.behaviour = { ...this.behaviour, ...behaviour };
  }

  /** Stops listening and cuts every connection; `listen` with the same port brings it back. */
  async close(): Promise<void> {
    for (const timer of this.delayed) clearTimeout(timer);
    this.delayed.clear();
    if (!this.server.listening) return;
    this.server.close();
    this.server.closeAllConnections();
    await once(this.server, 'close');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '' } = request;
    if (method === 'PUT' && url === '/stand-in/behaviour') {
      this.behave((await json(request)) as Partial<Behaviour>);
      send(response, 200, this.behaviour);
    } else if (method === 'GET' && healthEndpoints.includes(url)) {
      this.asked += 1;
      this.sayHealth(url, response);
    } else if (method === 'POST' && isMemoryPath(url)) {
      const { behaviour } = this;
      // A caller that left in the middle of its call is no news.
      const answer = () =>
        void this.shelf.answer(request, response, behaviour).catch(() => response.destroy());
      if (behaviour.delaySeconds > 0) this.later(behaviour.delaySeconds, answer);
      else answer();
    } else send(response, 404, { detail: 'Not Found' });
  }

  private sayHealth(url: string, response: ServerResponse): void {
    const { health, delaySeconds, errorRate } = this.behaviour;
    const isError = Math.floor(this.asked * errorRate) > Math.floor((this.asked - 1) * errorRate);
    const ready = health === 'ready';
    if (health === 'silent') return;
    if (health === 'drop') response.destroy();
    else if (health === '503' || isError) this.later(delaySeconds, () => send(response, 503, { ok: false }));
    else {
      const status = ready || url !== '/readyz' ? 200 : 503;
      this.later(delaySeconds, () => send(response, status, { ok: true, ready }));
    }
  }

  private later(seconds: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.delayed.delete(timer);
      work();
    }, seconds * 1000);
    this.delayed.add(timer);
  }
}

function send(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}
