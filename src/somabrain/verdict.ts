import type { MemoryOutcome } from '../domain/memories.ts';
import { type Answer, isObject } from './http.ts';

/** What SomaBrain says of a memory goes into `last_error` and dead letters, shortened to this. */
const MAX_REASON = 300;

type Said = Pick<Answer, 'status' | 'body'> & Partial<Pick<Answer, 'retryAfterMs' | 'challenges'>>;

/** What an answer other than a 2xx means for the memory that was sent. */
export function verdictOn({ status, body, retryAfterMs, challenges = false }: Said): MemoryOutcome {
  if (isDefinite(status) && !isMissing({ status, body }) && !isAboutUs(status, body, challenges))
    return { kind: 'rejected', reason: describe(status, body) };
  // Told without SomaBrain's words, which may show the memory: these reasons go into logs and Temporal's history.
  const reason = describe(status, undefined);
  if (status === 409) return verdictOnConflict(reason, body, retryAfterMs);
  if (status === 425) return { kind: 'busy', reason };
  if (isMissing({ status, body })) return { kind: 'away', reason: `${reason}: no place to store memories` };
  return { kind: 'away', reason, ...(retryAfterMs !== undefined && { retryAfterMs }) };
}

/**
 * There is no such endpoint. A 404 in words of SomaBrain's own is about the memory (an unknown tenant, for example);
 * what routers say by themselves is not.
 */
export function isMissing({ status, body }: Pick<Answer, 'status' | 'body'>): boolean {
  if (status !== 404) return status === 405;
  const said = wordsOf(body);
  return typeof said !== 'string' || /^not found\.?$|^cannot post|\broute\b/i.test(said.trim());
}

/** A no that another try does not mend by itself. */
const isDefinite = (status: number): boolean =>
  status >= 400 && status < 500 && ![408, 409, 425, 429].includes(status);

/**
 * A missing or wrong token is not the memory's fault, else a changed token would make dead letters of everything. A 403
 * is told apart by the challenge, and by its words. SomaBrain speaks JSON: what comes without is a proxy's, except that
 * both may find a call too large.
 */
const isAboutUs = (status: number, body: Answer['body'], challenges: boolean): boolean =>
  status === 401 ||
  status === 407 ||
  (body === undefined && ![413, 414].includes(status)) ||
  (status === 403 &&
    (challenges || /authenticat|token|credential|api.?key/i.test(JSON.stringify(wordsOf(body) ?? ''))));

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
  const words = JSON.stringify(wordsOf(body) ?? '');
  const atWork = retryAfterMs !== undefined || /progress|processing|pending|in.flight|locked/i.test(words);
  const isThere = body?.deduplicated === true || /already|exists|duplicate/i.test(words);
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
  return failed ? { kind: 'rejected', reason: describe(422, result) } : verdictOnStored(result);
}

/** SomaBrain may say yes while its store is away: then it has queued the memory, or it will lose it. */
export function verdictOnStored(body: NonNullable<Answer['body']>): MemoryOutcome {
  const { persisted_to_ltm, queued_for_ltm, deduplicated, warning, warnings } = body;
  const isKept =
    persisted_to_ltm !== false ||
    queued_for_ltm === true ||
    deduplicated === true ||
    /queued/i.test(JSON.stringify([warning, warnings]));
  return isKept
    ? { kind: 'stored' }
    : { kind: 'away', reason: 'SomaBrain answers 200, but has neither stored nor queued the memory' };
}
