import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isMissing, verdictOn, verdictOnItem } from '../../src/somabrain/verdict.ts';

test('409 is stored only where SomaBrain says that the memory is there and nobody is at work on it', () => {
  const verdict = (body: Record<string, unknown> | undefined, retryAfterMs?: number) =>
    verdictOn({ status: 409, body, ...(retryAfterMs !== undefined && { retryAfterMs }) }).kind;
  assert.equal(verdict({ deduplicated: true }), 'stored');
  assert.equal(verdict({ detail: 'memory already exists' }), 'stored');
  assert.equal(verdict({ detail: 'Duplicate idempotency key' }), 'stored');
  assert.equal(verdict({ detail: 'duplicate request in progress' }), 'busy');
  assert.equal(verdict({ detail: 'duplicate key' }, 1_000), 'busy');
  assert.equal(verdict({ detail: 'conflict' }), 'busy');
  assert.equal(verdict(undefined), 'busy');
});

test('what is about this service and not about the memory', () => {
  const kind = (status: number, body?: Record<string, unknown>, challenges = false) =>
    verdictOn({ status, body, challenges }).kind;
  assert.equal(kind(401), 'away');
  assert.equal(kind(403, { detail: 'tenant acme may not write here' }), 'rejected');
  assert.equal(kind(403, { detail: 'invalid token' }), 'away');
  assert.equal(kind(403, { message: 'Invalid authentication credentials' }), 'away');
  assert.equal(kind(403, { detail: 'Not authenticated' }), 'away');
  assert.equal(kind(403, undefined, true), 'away');
  assert.equal(kind(407), 'away');
  for (const status of [400, 403, 404, 410, 422])
    assert.equal(kind(status), 'away', `${status} without JSON is a proxy's`);
  assert.equal(kind(413), 'rejected', 'too large is too large, whoever says so');
  const { reason } = verdictOn({ status: 503, body: { detail: 'no room for "my secret"' } }) as {
    reason: string;
  };
  assert.equal(reason, 'SomaBrain answers 503', 'its words would go into logs and histories');
});

test('404 is a missing endpoint unless SomaBrain speaks in words of its own', () => {
  for (const body of [
    undefined,
    {},
    { detail: 'Not Found' },
    { error: 'Not Found', message: 'Route POST:/x not found' },
    { message: 'Cannot POST /x' },
    { message: 'no Route matched with those values' },
  ]) {
    assert.ok(isMissing({ status: 404, body }), JSON.stringify(body));
    assert.equal(verdictOn({ status: 404, body }).kind, 'away');
  }
  const unknownTenant = { status: 404, body: { detail: 'tenant acme is unknown' } };
  assert.ok(!isMissing(unknownTenant));
  assert.equal(verdictOn(unknownTenant).kind, 'rejected');
  assert.ok(isMissing({ status: 405, body: { detail: 'Method Not Allowed' } }));
});

test('an item of a batch: stored unless it says otherwise, in doubt if it is not there', () => {
  const cases: [unknown, string][] = [
    [{ key: 'a', coordinate: [0, 0, 0] }, 'stored'],
    [{ key: 'a', ok: true, deduplicated: true, error: null, status: 200 }, 'stored'],
    [{ key: 'a', ok: false }, 'rejected'],
    [{ key: 'a', error: 'too long' }, 'rejected'],
    [{ key: 'a', status: 422 }, 'rejected'],
    [{ key: 'a', ok: false, status: 503 }, 'away'],
    [{ key: 'a', ok: false, status_code: 429 }, 'away'],
    [{ key: 'a', persisted_to_ltm: false }, 'away'],
    [{ key: 'a', persisted_to_ltm: false, queued_for_ltm: true }, 'stored'],
    [{ key: 'a', persisted_to_ltm: false, deduplicated: true }, 'stored'],
    [{ key: 'a', persisted_to_ltm: false, warnings: ['memory-backend-unavailable: queued'] }, 'stored'],
    [undefined, 'away'],
    ['stored', 'away'],
  ];
  for (const [result, kind] of cases) assert.equal(verdictOnItem(result).kind, kind, JSON.stringify(result));
});

test('reasons are short, and storable in Postgres', () => {
  const { reason } = verdictOn({ status: 422, body: { detail: `\0\ud800${'x'.repeat(10_000)}` } }) as {
    reason: string;
  };
  assert.ok(reason.length < 400 && !reason.includes('\0') && reason.isWellFormed());
});
