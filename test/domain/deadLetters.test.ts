import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { replayInputFaults } from '../../src/domain/deadLetters.ts';

const id = '01234567-89ab-cdef-0123-456789abcdef';
const cursor = { seq: '12', createdAt: '2026-01-31 12:00:00.123456+00', id };
const progress = { cursor, replayed: 1, resolved: 1, failed: 0 };

test('Any choice of fields is good, left out, null or with a value that Postgres understands', () => {
  const values = {
    topic: 'conversation.inbound',
    ids: [id, id.toUpperCase()],
    from: '2026-01-31T12:00:00Z',
    to: '2024-02-29T23:59:59.123456+05:30',
    limit: Number.MAX_SAFE_INTEGER,
    dryRun: false,
    resolveOnly: true,
    resolvedBy: 'x'.repeat(255),
    notes: 'why\nand how',
    progress,
  };
  assert.deepEqual(replayInputFaults({}), []);
  assert.deepEqual(replayInputFaults(values), []);
  for (const [name, value] of Object.entries(values)) {
    assert.deepEqual(replayInputFaults({ [name]: value }), []);
    assert.deepEqual(replayInputFaults({ [name]: null }), []);
  }
  assert.deepEqual(replayInputFaults({ from: '2026-01-31T12:00-08:00' }), []);
  assert.deepEqual(replayInputFaults({ progress: { ...progress, cursor: null } }), []);
});

suite('Each fault is told by its field, its value and what is expected', () => {
  const moment = /must be a moment with its offset, such as 2026-01-31T12:00:00Z: got /;
  const faults: [name: string, input: unknown, fault: RegExp][] = [
    ['null', null, /^deadLetterReplay takes no input, or an object: got null$/],
    ['a list', [], /^deadLetterReplay takes no input, or an object: got \[\]$/],
    ['a text', 'all', /got "all"$/],
    ['a field that is none', { Topic: 'a' }, /^Topic is no field: expected topic, ids, from, .*notes$/],
    ['a field that every object has', { toString: 1 }, /^toString is no field/],
    ['an empty topic', { topic: '' }, /^topic must be the name of a topic: got ""$/],
    ['a topic that is too long', { topic: 't'.repeat(256) }, /^topic must be .* \(258 characters\)$/],
    ['a topic with NUL', { topic: 'a\0' }, /^topic must be/],
    ['no ids', { ids: [] }, /^ids must be 1 to 1000 ids of core_deadlettermessage: got \[\]$/],
    ['too many ids', { ids: Array(1_001).fill(id) }, /^ids must be/],
    ['an id that is none', { ids: [id, '7'] }, /^ids must be/],
    ['ids that are a text', { ids: id }, /^ids must be/],
    ['a date without a time', { from: '2026-01-31' }, moment],
    ['a moment without its offset', { from: '2026-01-31T12:00:00' }, moment],
    ['30 February', { from: '2026-02-30T00:00:00Z' }, moment],
    ['29 February of a common year', { to: '2026-02-29T00:00:00Z' }, moment],
    ['the year 0', { to: '0000-01-01T00:00:00Z' }, moment],
    ['an offset that nobody has', { to: '2026-01-31T12:00:00+23:59' }, moment],
    ['what only Date understands', { to: '2026-01-31 12:00 (noon)' }, moment],
    ['a moment in milliseconds', { to: 1_700_000_000_000 }, moment],
    ['a limit of 0', { limit: 0 }, /^limit must be a whole number from 1 on: got 0$/],
    ['half a letter', { limit: 1.5 }, /^limit must be/],
    ['more than a bigint', { limit: 1e300 }, /^limit must be/],
    ['a limit in quotes', { limit: '5' }, /^limit must be .*: got "5"$/],
    ['a flag in quotes', { dryRun: 'true' }, /^dryRun must be true or false: got "true"$/],
    ['a flag that is a number', { resolveOnly: 1 }, /^resolveOnly must be/],
    ['a name that is too long', { resolvedBy: 'x'.repeat(256) }, /^resolvedBy must be a name of 1 to 255/],
    ['notes with NUL', { notes: 'a\0b' }, /^notes must be a text/],
    ['notes that are too long', { notes: 'x'.repeat(10_001) }, /^notes must be .* \(10003 characters\)$/],
    ['progress that is a text', { progress: 'half' }, /^progress must be/],
    ['progress without counts', { progress: { cursor: null } }, /^progress must be/],
    ['a cursor without parts', { progress: { ...progress, cursor: {} } }, /^progress must be/],
    ['another cursor', { progress: { ...progress, cursor: { ...cursor, seq: 'x' } } }, /^progress must be/],
  ];
  for (const [name, input, fault] of faults) {
    test(name, () => {
      const [first, ...others] = replayInputFaults(input);
      assert.match(first ?? '', fault);
      assert.deepEqual(others, []);
    });
  }

  test('several at once', () => {
    assert.equal(replayInputFaults({ limit: 0, topic: 7, nonsense: 1, notes: 'good' }).length, 3);
  });
});
