// The stand-in's memory: what SomaBrain keeps, in both shapes of its API, and how it can be made to misbehave over it.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';

/** Ways to take memories: SomaBrain's own, in batches and one by one, and the one of the platform's client. */
export type MemoryApi = 'batch' | 'single' | 'platform';

export interface MemoryBehaviour {
  /** The endpoints that are there; a call to another one is a 404. */
  apis: MemoryApi[];
  /**
   * What it does with a call. A number is answered without storing anything. `stored, then …`: everything is stored, and
   * the caller does not hear of it. `drop` ends the connection in the middle of the answer.
   */
  memories:
    | 'store'
    | number
    | 'stored, then 503'
    | 'stored, then 504'
    | 'stored, then drop'
    | 'html'
    | 'empty'
    | 'gzip'
    | 'gzip bomb'
    | 'garbage'
    | '10 MB'
    | 'redirect';
  /** Goes out with a number; seconds. */
  retryAfter: number | null;
  /** What a payload with `"poison": true` does: it is refused, alone or with its batch, or it breaks every call. */
  poison: 'alone' | 'with its batch' | 'breaks its call' | 'taken';
  /** Demanded as bearer token. */
  token: string | null;
  /** A longer body is a 413. */
  maxBytes: number;
}

export const goodMemory: MemoryBehaviour = {
  apis: ['batch', 'single'],
  memories: 'store',
  retryAfter: null,
  poison: 'alone',
  token: null,
  maxBytes: 20_000_000,
};

const paths: Record<string, MemoryApi> = {
  '/memory/remember/batch': 'batch',
  '/memory/remember': 'single',
  '/v1/memory/remember': 'platform',
};

export interface StoredMemory {
  tenant: string;
  namespace: string;
  key: string;
  value: Record<string, unknown>;
}

interface Item {
  key: string;
  value: Record<string, unknown>;
}

export const isMemoryPath = (url: string): boolean => url in paths;

export class MemoryShelf {
  /** Each once, by key, in the order of arrival. */
  readonly stored = new Map<string, StoredMemory>();
  /** Memories that came again. */
  duplicates = 0;
  calls = 0;
  /** Memories for each call that was understood. */
  readonly sizes: number[] = [];
  /** The headers of the last call. */
  lastHeaders: IncomingMessage['headers'] = {};

  /** What each tenant's memories say under `field`, in the order of arrival. */
  byTenant<T>(field: string): Map<string, T[]> {
    const said = new Map<string, T[]>();
    for (const { tenant, value } of this.stored.values()) {
      const values = said.get(tenant) ?? [];
      values.push(value[field] as T);
      said.set(tenant, values);
    }
    return said;
  }

  async answer(request: IncomingMessage, response: ServerResponse, behaviour: MemoryBehaviour) {
    this.calls += 1;
    this.lastHeaders = request.headers;
    const body = await text(request);
    const api = paths[request.url ?? '']!;
    if (!behaviour.apis.includes(api)) return send(response, 404, { detail: 'Not Found' });
    const { authorization } = request.headers;
    if (behaviour.token !== null && authorization !== `Bearer ${behaviour.token}`) {
      if (authorization) return send(response, 403, { detail: 'invalid token' });
      return send(response, 401, { detail: 'Unauthorized' });
    }
    if (Buffer.byteLength(body) > behaviour.maxBytes)
      return send(response, 413, { detail: 'Request body too large' });
    if (typeof behaviour.memories === 'number') return refuse(response, behaviour);
    if (!misbehave(response, behaviour.memories)) this.take(api, request, body, response, behaviour);
  }

  private take(
    api: MemoryApi,
    request: IncomingMessage,
    body: string,
    response: ServerResponse,
    behaviour: MemoryBehaviour,
  ): void {
    const said = JSON.parse(body) as Record<string, unknown>;
    const { tenant, namespace } = said as { tenant: string; namespace: string };
    const key = decodeURIComponent(String(request.headers['x-idempotency-key']));
    const items =
      api === 'batch'
        ? (said.items as Item[])
        : [{ key, value: (api === 'single' ? said.value : said.payload) as Item['value'] }];
    this.sizes.push(items.length);
    const isBad = ({ value }: Item) => behaviour.poison !== 'taken' && value.poison === true;
    if (items.some(isBad) && behaviour.poison === 'breaks its call') {
      send(response, 500, { detail: 'Internal Server Error' });
      return;
    }
    if (items.some(isBad) && (api !== 'batch' || behaviour.poison === 'with its batch')) {
      send(response, 422, { detail: 'poison' });
      return;
    }
    const results = items.map((item) =>
      isBad(item)
        ? { key: item.key, ok: false, status: 422, error: 'poison' }
        : { key: item.key, coordinate: [0, 0, 0], deduplicated: this.keep(tenant, namespace, item) },
    );
    const answer = { ok: true, tenant, namespace, ...(api === 'batch' ? { results } : results[0]) };
    conclude(response, behaviour.memories, answer);
  }

  /** Whether it was there. */
  private keep(tenant: string, namespace: string, { key, value }: Item): boolean {
    if (this.stored.has(key)) {
      this.duplicates += 1;
      return true;
    }
    this.stored.set(key, { tenant, namespace, key, value });
    return false;
  }
}

/** Answers that are none; false where the behaviour is another. */
function misbehave(response: ServerResponse, memories: MemoryBehaviour['memories']): boolean {
  const json = { 'content-type': 'application/json' };
  switch (memories) {
    case 'html':
      response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Please log in</html>');
      return true;
    case 'empty':
      response.writeHead(200).end();
      return true;
    case 'garbage':
      response.writeHead(200, { ...json, 'content-encoding': 'gzip' }).end('this is no gzip');
      return true;
    case 'gzip bomb':
      response.writeHead(200, { ...json, 'content-encoding': 'gzip' });
      response.end(gzipSync(Buffer.alloc(50_000_000, ' ')));
      return true;
    case '10 MB':
      response.writeHead(200, json).end(`{"ok":true,"padding":"${'x'.repeat(10_000_000)}"}`);
      return true;
    case 'redirect':
      response.writeHead(307, { location: '/memory/elsewhere' }).end();
      return true;
    default:
      return false;
  }
}

/** After all is stored: the answer, or what comes in its place. */
function conclude(response: ServerResponse, memories: MemoryBehaviour['memories'], answer: object): void {
  if (memories === 'stored, then 503') send(response, 503, { detail: 'circuit open' });
  else if (memories === 'stored, then 504') send(response, 504, { detail: 'memory backend timeout' });
  else if (memories === 'stored, then drop') dropMidway(response);
  else if (memories === 'gzip') {
    response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' });
    response.end(gzipSync(JSON.stringify(answer)));
  } else send(response, 200, answer);
}

function refuse(response: ServerResponse, { memories, retryAfter }: MemoryBehaviour): void {
  if (retryAfter !== null) response.setHeader('retry-after', String(retryAfter));
  send(response, memories as number, { detail: 'told to' });
}

function dropMidway(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' });
  response.write('{"ok":', () => response.destroy());
}

function send(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}
