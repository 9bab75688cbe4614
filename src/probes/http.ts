import { decoded } from './failure.ts';
import type { Finding } from './finding.ts';

/** A service that says more of itself than this is not read to the end, and its status alone counts. */
const MAX_BODY_BYTES = 64 * 1024;

const DOWN = new Set(['unhealthy', 'down', 'error', 'fail', 'failed', 'out_of_service']);
const DEGRADED = new Set(['degraded', 'warn', 'warning']);

/**
 * GETs `url` over a connection of its own. Up is any 2xx status whose body, if it is JSON, does not deny it. Redirects
 * are not followed: another address would be probed than the one that was meant.
 * @throws what kept it from answering, or what it answers
 */
export async function probeHttp(url: string, signal: AbortSignal): Promise<Finding | undefined> {
  return judge(await getJson(url, signal));
}

/**
 * SomaBrain's own answer decides: `ready`, or where it has none, `ok`. Without either it is not SomaBrain that answers.
 * @throws what kept it from answering, or what it answers
 */
export async function probeSomaBrain(baseUrl: string, signal: AbortSignal): Promise<void> {
  const url = new URL(baseUrl);
  url.pathname = `${url.pathname.replace(/\/$/, '')}/health`;
  const { ready, ok } = await getJson(url.href, signal);
  if (typeof ready !== 'boolean' && typeof ok !== 'boolean') throw new Error('says neither ready nor ok');
  if (!(ready ?? ok)) throw new Error(typeof ready === 'boolean' ? 'says ready: false' : 'says ok: false');
}

type Json = Record<string, unknown>;

function judge(answer: Json): Finding | undefined {
  const denied = ['ready', 'ok', 'healthy'].find((name) => answer[name] === false);
  if (denied) throw new Error(`says ${denied}: false`);
  const status = String(answer.status).toLowerCase();
  if (DOWN.has(status)) throw new Error(`says status: ${status}`);
  if (DEGRADED.has(status)) return { atLeast: 'minor', error: `says status: ${status}` };
  return undefined;
}

/** The JSON object of a 2xx answer; an empty one where the body is something else. */
async function getJson(url: string, signal: AbortSignal): Promise<Json> {
  const { address, authorization } = withoutCredentials(url);
  const response = await fetch(address, {
    redirect: 'manual',
    signal,
    // A connection that is kept open would fail the next probe when the service restarts.
    headers: { accept: 'application/json', connection: 'close', ...authorization },
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`answers ${response.status}`);
  }
  const body = await readStart(response);
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'object' && value !== null ? (value as Json) : {};
  } catch {
    return {};
  }
}

/** fetch refuses an address with credentials, in an error that shows them. */
function withoutCredentials(url: string) {
  const address = new URL(url);
  const credentials = [address.username, address.password].map(decoded).join(':');
  address.username = '';
  address.password = '';
  if (credentials === ':') return { address, authorization: {} };
  return {
    address,
    authorization: { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` },
  };
}

async function readStart(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) return '';
  }
  return Buffer.concat(chunks).toString('utf8');
}
