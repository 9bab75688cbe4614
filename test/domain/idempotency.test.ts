import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { canonicalJson } from '../../src/domain/canonicalJson.ts';
import {
  type IdempotencyRecord,
  idempotencyFaults,
  MAX_RESULT_BYTES,
  meet,
  resultFault,
} from '../../src/domain/idempotency.ts';

const UNTIL = '2026-01-02T03:04:05.678901+00:00';

suite('What a caller gets that meets a record', () => {
  const record = (fields: Partial<IdempotencyRecord> = {}): IdempotencyRecord => ({
    operation: 'op',
    payloadHash: 'a',
    completed: true,
    result: { paid: true },
    until: UNTIL,
    ...fields,
  });
  const completed = { outcome: 'completed', result: { paid: true } };
  const running = { outcome: 'in_progress', until: new Date('2026-01-02T03:04:05.678Z') };
  const cases: [name: string, met: IdempotencyRecord, hash: string | null, expected: unknown][] = [
    ['completed, the same payload', record(), 'a', completed],
    ['completed, payload not told by the caller', record(), null, completed],
    ['completed, payload not told by the record', record({ payloadHash: null }), 'b', completed],
    ['completed, no payload at all', record({ payloadHash: null }), null, completed],
    [
      'completed, another payload',
      record(),
      'b',
      /^key "k" of operation "op" is in use with another payload$/,
    ],
    ['completed, another operation', record({ operation: 'x' }), 'a', /is in use for operation "x"$/],
    ['in progress, the same payload', record({ completed: false }), 'a', running],
    ['in progress, payload not told', record({ completed: false }), null, running],
    ['in progress, another payload', record({ completed: false }), 'b', /another payload$/],
    ['in progress, another operation', record({ completed: false, operation: 'x' }), null, /operation "x"$/],
  ];
  for (const [name, met, payloadHash, expected] of cases) {
    test(name, () => {
      const meeting = () => meet(met, { key: 'k', operation: 'op', payloadHash });
      if (expected instanceof RegExp) {
        assert.throws(meeting, { code: 'idempotency_mismatch', message: expected });
      } else {
        assert.deepEqual(meeting(), expected);
      }
    });
  }
});

test('Each fault of a claim has a sentence of its own', () => {
  const good = { key: 'k', operation: 'op', holdSeconds: 1, keepSeconds: 315_360_000, waitSeconds: 0 };
  assert.deepEqual(idempotencyFaults(good), []);
  assert.deepEqual(idempotencyFaults({ ...good, key: '🦄'.repeat(255), holdSeconds: 0.5 + 1 }), []);
  const unsaid = (value: unknown) => value as never;
  const cases: [fields: Partial<typeof good>, sentence: RegExp][] = [
    [{ key: '' }, /^key must be a string of 1 to 255 characters .*, got ""$/],
    [{ key: 'x'.repeat(256) }, /^key must be .*… \(258 characters\)$/],
    [{ key: 'a\0' }, /^key must be/],
    [{ key: unsaid(5) }, /^key must be .*got 5$/],
    [{ operation: 'x'.repeat(101) }, /^operation must be a string of 1 to 100 characters/],
    [{ operation: unsaid(undefined) }, /^operation must be .*got undefined$/],
    [{ holdSeconds: 0 }, /^holdSeconds must be a number from 1 to 86400, got 0$/],
    [{ holdSeconds: 86_401 }, /^holdSeconds must be/],
    [{ holdSeconds: Number.NaN }, /^holdSeconds must be/],
    [{ holdSeconds: unsaid('60') }, /^holdSeconds must be .*got "60"$/],
    [{ keepSeconds: Number.POSITIVE_INFINITY }, /^keepSeconds must be a number from 1 to 315360000/],
    [{ waitSeconds: -1 }, /^waitSeconds must be a number from 0 to 86400, got -1$/],
  ];
  for (const [fields, sentence] of cases) {
    const faults = idempotencyFaults({ ...good, ...fields });
    assert.equal(faults.length, 1, JSON.stringify(fields));
    assert.match(faults[0]!, sentence);
  }
});

test('A result is refused that jsonb or the limit cannot take, in a sentence that does not quote it', () => {
  const circle: unknown[] = [];
  circle.push(circle);
  const fits = 'x'.repeat(MAX_RESULT_BYTES - 2);
  for (const good of [null, 0, '', [], { a: [null] }, fits]) assert.equal(resultFault(good), '');
  assert.equal(resultFault(`${fits}x`), 'result must be at most 1000000 bytes as JSON, got 1000001');
  assert.match(resultFault('€'.repeat(400_000)), /got 1200002$/);
  assert.match(resultFault(1n), /^result must be JSON: /);
  assert.match(resultFault(circle), /^result must be JSON: /);
  assert.equal(resultFault(undefined), 'result must be JSON, got undefined');
  assert.match(resultFault({ secret: '\0' }), /^result must not contain NUL [^{]*$/);
});

test('Canonical JSON is the same for the same content in any order, and another for another content', () => {
  const shuffled = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(shuffled);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .reverse()
        .map(([name, field]) => [name, shuffled(field)]),
    );
  };
  fc.assert(
    fc.property(fc.jsonValue(), fc.jsonValue(), (one, other) => {
      assert.equal(canonicalJson(shuffled(one)), canonicalJson(one));
      assert.deepEqual(JSON.parse(canonicalJson(one)), JSON.parse(JSON.stringify(one)));
      const same = JSON.stringify(JSON.parse(canonicalJson(one))) === canonicalJson(other);
      assert.equal(canonicalJson(one) === canonicalJson(other), same);
    }),
  );
  assert.equal(
    canonicalJson({ b: 1, a: { d: 1, c: [{ f: 1, e: 2 }] } }),
    '{"a":{"c":[{"e":2,"f":1}],"d":1},"b":1}',
  );
});
