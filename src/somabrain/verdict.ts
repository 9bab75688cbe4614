import type { MemoryOutcome } from '../domain/memories.ts';
import { type Answer, isObject } from './http.ts';

/** What SomaBrain says of a memory goes into `last_error` and dead letters, shortened to this. */
const MAX_REASON = 300;

type Said = Pick<Answer, 'status' | 'body'> & Partial<Pick<Answer, 'retryAfterMs' | 'challenges'>>;

/** What an answer other than a 2xx means for the memory that was sent. */
export function verdictOn({ status, body, retryAfterMs, challenges = false }: Said): MemoryOutcome {
  const reason = describe(status, body);
  if (status === 409) return verdictOnConflict(reason, body, retryAfterMs);
  if (status === 425) return { kind: 'busy', reason };
  if (isMissing({ status, body })) return { kind: 'away', reason: `${reason}: no place to store memories` };
  if (isDefinite(status) && !isAboutUs(status, body, challenges)) return { kind: 'rejected', reason };
  return { kind: 'away', reason, ...(retryAfterMs !== undefined && { retryAfterMs }) };
}

/**
 * There is no such endpoint. A 404 in words of SomaBrain's own is about the memory (an unknown tenant, for example);
 * what routers say by themselves is not.
 */
export function isMissing({ status, body }: Pick<Answer, 'status' | 'body'>): boolean {
  if (status !== 404) return status === 405;
  const said = wordsOf(body);
  return typeof said !== 'string' || /^not found\.?$|^cannot post|^route\b/i.test(said.trim());
}

/** A no that another try does not mend by itself. */
const isDefinite = (status: number): boolean => status >= 400 && status < 500 && ![408, 429].includes(status);

/**
 * A missing or wrong token is not the memory's fault, else a changed token would make dead letters of everything. 403 is
 * told apart by the challenge, and by what FastAPI says where no token came at all.
 */
const isAboutUs = (status: number, body: Answer['body'], challenges: boolean): boolean =>
  status === 401 ||
  status === 407 ||
  (status === 403 && (challenges || /not authenticated/i.test(String(body?.detail))));

/**
 * 409 under a memory's own key: SomaBrain has seen the key before. Where it says that the memory is there, it is stored.
 * Where it does not, or says that the first call is still at work, the memory may yet be missing: it is asked again under
 * the same key, and its tenant waits.
 */
function verdictOnConflict(
  reason: string,
  body: Answer['body'],
  retryAfterMs: number | undefined,
): MemoryOutcome {
  const atWork = retryAfterMs !== undefined || /progress|processing|pending|in.flight|locked/i.test(reason);
  const isThere = body?.deduplicated === true || /already|exists|duplicate/i.test(reason);
  return isThere && !atWork ? { kind: 'stored' } : { kind: 'busy', reason };
}

/** One line for people: the status, and what the body says of it. */
function describe(status: number, body: Answer['body']): string {
  if (status >= 300 && status < 400) return `SomaBrain answers with a redirect (${status})`;
  const said = wordsOf(body);
  if (said === undefined || said === null) return `SomaBrain answers ${status}`;
  return `SomaBrain answers ${status}: ${shortened(typeof said === 'string' ? said : JSON.stringify(said))}`;
}

function wordsOf(body: Answer['body']): unknown {
  const { detail, error, message } = body ?? {};
  return detail ?? error ?? message;
}

/** Postgres takes no NUL, and half a surrogate pair would become another text. */
const shortened = (text: string): string =>
  text.slice(0, MAX_REASON).replaceAll('\0', '\u2400').toWellFormed();

/** Of one item of a batch that was answered with 2xx; an item that is not among the results is in doubt. */
export function verdictOnItem(result: unknown): MemoryOutcome {
  if (!isObject(result))
    return { kind: 'away', reason: 'SomaBrain does not say what became of it in its batch' };
  const status = result.status ?? result.status_code;
  const failed = result.ok === false || (result.error !== undefined && result.error !== null);
  if (typeof status === 'number' && status >= 300) return verdictOn({ status, body: result });
  // SomaBrain took the batch and says no to this one.
  return failed ? { kind: 'rejected', reason: describe(422, result) } : { kind: 'stored' };
}
