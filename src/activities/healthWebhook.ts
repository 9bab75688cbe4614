import { createHmac } from 'node:crypto';
import { unescape as unescapeLeniently } from 'node:querystring';
import { describeError, OrchestratorError } from '../domain/errors.ts';
import type { HealthNotice } from '../domain/health.ts';

export interface HealthWebhook {
  /** http or https; a user and a password in it become basic authentication. */
  url: string;
  /** Signs what is posted. */
  secret: string;
}

/** What another try may mend: too early, too many, a server's own trouble. */
const PASSING = new Set([408, 425, 429]);

/**
 * Posts the notice's payload as JSON. Who receives it can tell by `Idempotency-Key` what it has already, and by
 * `X-SomaAgent-Signature` that it is ours: `sha256=` and, in hexadecimal, the HMAC-SHA256 of
 * `{X-SomaAgent-Timestamp}.{body}` with the secret. The timestamp, in seconds since 1970, is that of this attempt, so that
 * an old request cannot be replayed. Any 2xx will do; redirects are not followed.
 * @throws OrchestratorError webhook_unavailable, webhook_refused; of the URL they name the host only, because its path may
 *   be a secret as well
 */
export async function postNotice(
  webhook: HealthWebhook,
  { idempotencyKey, payload }: HealthNotice,
  signal: AbortSignal,
): Promise<void> {
  const url = new URL(webhook.url);
  const body = JSON.stringify(payload);
  const timestamp = String(Math.floor(Date.now() / 1000));
  const headers = new Headers({
    'Content-Type': 'application/json',
    'Idempotency-Key': idempotencyKey,
    'X-SomaAgent-Timestamp': timestamp,
    'X-SomaAgent-Signature': `sha256=${hmac(webhook.secret, `${timestamp}.${body}`)}`,
  });
  const login = takeLogin(url);
  if (login) headers.set('Authorization', `Basic ${login}`);
  const status = await post(url, { body, headers, signal });
  if (status >= 200 && status < 300) return;
  const code = status >= 500 || PASSING.has(status) ? 'webhook_unavailable' : 'webhook_refused';
  throw new OrchestratorError(code, `the webhook at ${url.host} answered ${status}`);
}

const hmac = (secret: string, text: string): string =>
  createHmac('sha256', secret).update(text).digest('hex');

/** fetch refuses a URL with a user or a password in it, and shows it. */
function takeLogin(url: URL): string | undefined {
  const { username, password } = url;
  if (username === '' && password === '') return undefined;
  url.username = '';
  url.password = '';
  return Buffer.from([username, password].map(unescapeLeniently).join(':')).toString('base64');
}

async function post(
  url: URL,
  request: { body: string; headers: Headers; signal: AbortSignal },
): Promise<number> {
  try {
    const answer = await fetch(url, { ...request, method: 'POST', redirect: 'manual' });
    await answer.body?.cancel();
    return answer.status;
  } catch (error) {
    const message = `the webhook at ${url.host} does not answer: ${describeError(error)}`;
    throw new OrchestratorError('webhook_unavailable', message);
  }
}
