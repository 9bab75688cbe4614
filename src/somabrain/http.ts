import { unescape as unescapeLeniently } from 'node:querystring';
import { OrchestratorError } from '../domain/errors.ts';

/** How long SomaBrain may take over one answer. */
export const CALL_LIMIT_MS = 10_000;
/** An answer that is longer is not read to its end. It is counted after decompression. */
export const MAX_ANSWER_BYTES = 1024 * 1024;

/** What SomaBrain answered, as far as it makes sense. */
export interface Answer {
  status: number;
  /** Undefined where the body is no JSON object. */
  body: Record<string, unknown> | undefined;
  /** Of the header Retry-After. */
  retryAfterMs: number | undefined;
  /** It asks for credentials, or for others. */
  challenges: boolean;
}

export interface Request {
  path: string;
  headers: Record<string, string>;
  body: string;
}

/** SomaBrain's address, taken apart: fetch refuses one with credentials in it, and shows them. */
export class Address {
  private readonly base: URL;
  private readonly authorization: string | undefined;

  /** @throws OrchestratorError invalid_input, unless it is an http or https URL and the token fits into a header */
  constructor(url: string, token?: string) {
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) {
      // fetch would say so at every call, and show it.
      throw new OrchestratorError(
        'invalid_input',
        "SomaBrain's token must be printable ASCII without spaces",
      );
    }
    const base = URL.parse(url);
    if (base === null || !['http:', 'https:'].includes(base.protocol)) {
      const got = base ? `${base.protocol}…` : 'something else';
      throw new OrchestratorError('invalid_input', `SomaBrain's URL must be http:// or https://, got ${got}`);
    }
    const login = [base.username, base.password].map(unescapeLeniently).join(':');
    if (token !== undefined) this.authorization = `Bearer ${token}`;
    else if (login !== ':') this.authorization = `Basic ${Buffer.from(login).toString('base64')}`;
    base.username = '';
    base.password = '';
    this.base = base;
  }

  /**
   * Posts JSON and reads the answer, within CALL_LIMIT_MS. Redirects are not followed: memories would go elsewhere than
   * was meant.
   * @throws what kept it from answering, or from being understood
   */
  async post({ path, headers, body }: Request, signal?: AbortSignal): Promise<Answer> {
    const late = AbortSignal.timeout(CALL_LIMIT_MS);
    const response = await fetch(this.urlOf(path), {
      method: 'POST',
      redirect: 'manual',
      signal: signal ? AbortSignal.any([signal, late]) : late,
      headers: {
        ...headers,
        'content-type': 'application/json',
        accept: 'application/json',
        ...(this.authorization && { authorization: this.authorization }),
      },
      body,
    });
    return {
      status: response.status,
      body: await readObject(response),
      retryAfterMs: retryAfterMs(response.headers.get('retry-after')),
      challenges: response.headers.has('www-authenticate'),
    };
  }

  private urlOf(path: string): URL {
    const url = new URL(this.base);
    url.pathname = `${url.pathname.replace(/\/$/, '')}${path}`;
    return url;
  }
}

async function readObject(response: Response): Promise<Answer['body']> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    chunks.push(chunk);
    bytes += chunk.length;
    // Leaving the loop cancels the rest.
    if (bytes > MAX_ANSWER_BYTES) throw new Error(`answers ${response.status} with more than 1 MiB`);
  }
  try {
    const value: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'));
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Seconds, or a date. */
function retryAfterMs(header: string | null): number | undefined {
  if (header === null) return undefined;
  const ms = /^\d{1,9}$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}
