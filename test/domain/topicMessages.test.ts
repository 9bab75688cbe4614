import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ConsumedRecord } from '../../src/domain/consumedRecord.ts';
import { type ConsumedTopic, understand } from '../../src/domain/topicMessages.ts';

const MEMORY = 'somabrain.memory.remember';
const sha256 = (data: string | Uint8Array) => createHash('sha256').update(data).digest('hex');
const bytes = (text: string) => new TextEncoder().encode(text);

function record(topic: string, value: unknown, rest: Partial<ConsumedRecord> = {}): ConsumedRecord {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  const place = { topic, partition: 0, offset: '7', timestamp: 0 };
  return { ...place, key: null, value: bytes(text), headers: {}, ...rest };
}

const ask = (topic: ConsumedTopic, value: unknown, rest: Partial<ConsumedRecord> = {}) =>
  understand(topic, record(topic, value, rest), sha256);
const faultOf = (topic: ConsumedTopic, value: unknown, rest?: Partial<ConsumedRecord>) => {
  const understood = ask(topic, value, rest);
  return 'fault' in understood ? understood.fault : undefined;
};

const memory = { memory_id: 'm-1', tenant_id: 'acme', payload: { text: 'Zürich 🦊' } };
const upload = {
  filename: 'a/b.png',
  content_type: 'image/png',
  metadata: {},
  size: 3,
  data_b64: 'AQID',
};
const backup = {
  type: 'database',
  source: 'postgresql',
  destination: null,
  metadata: { by: 'cron' },
  queued_at: '2026-01-31T12:00:00.123456+00:00',
};

test('good messages of the three topics, and their keys', () => {
  assert.deepEqual(ask(MEMORY, memory, { key: bytes('acme') }), {
    ok: { memoryId: 'm-1', tenant: 'acme', namespace: 'wm', payload: memory.payload },
    idempotencyKey: 'memory:acme:m-1',
  });
  const digest = sha256(new Uint8Array([1, 2, 3])).slice(0, 16);
  assert.deepEqual(ask('upload.retry', { ...upload, unknown: true }, { key: bytes('a/b.png') }), {
    ok: {
      filename: 'a/b.png',
      contentType: 'image/png',
      metadata: {},
      size: 3,
      dataBase64: 'AQID',
      dataRef: null,
    },
    idempotencyKey: `upload:a/b.png:${digest}`,
  });
  assert.deepEqual(ask('backup.tasks', backup, { key: bytes('any') }), {
    ok: {
      type: 'database',
      source: 'postgresql',
      destination: null,
      metadata: { by: 'cron' },
      queuedAt: Date.UTC(2026, 0, 31, 12, 0, 0, 123),
    },
    idempotencyKey: 'backup:database:postgresql:1769860800',
  });
  const elsewhere = ask('backup.tasks', { ...backup, destination: 's3://other/place' });
  assert.equal(
    'ok' in elsewhere && elsewhere.idempotencyKey,
    'backup:database:postgresql:1769860800:s3://other/place',
  );
  const inUtc = ask('backup.tasks', { ...backup, queued_at: '2026-01-31T12:00:00' });
  assert.equal('ok' in inUtc && inUtc.idempotencyKey, 'backup:database:postgresql:1769860800');
});

test('the header is the key; a derived key that is too long for its column becomes a digest', () => {
  const headers = { idempotency_key: bytes('mine:1') };
  const known = ask(MEMORY, memory, { headers });
  assert.equal('ok' in known && known.idempotencyKey, 'mine:1');
  const long = { ...memory, tenant_id: '🦊'.repeat(255) };
  const derived = ask(MEMORY, long);
  const expected = `memory:${sha256(`memory:${long.tenant_id}:m-1`)}`;
  assert.equal('ok' in derived && derived.idempotencyKey, expected);
  const colons = ask(MEMORY, { ...memory, tenant_id: 'acme:eu', memory_id: '7' });
  assert.equal('ok' in colons && colons.idempotencyKey, `memory:${sha256('acme:eu')}:7`, 'not that of acme');
  for (const bad of ['', '🦊'.repeat(256), 'nul\0']) {
    const fault = faultOf(MEMORY, memory, { headers: { idempotency_key: bytes(bad) } });
    assert.equal(fault, 'the header idempotency_key must be a text of 1 to 255 characters');
  }
});

test('a key that is too long for the id of a workflow is no key of a message that has one', () => {
  const keyed = (characters: number) => ({ headers: { idempotency_key: bytes('🦊'.repeat(characters)) } });
  for (const [topic, value] of [
    ['upload.retry', upload],
    ['backup.tasks', backup],
  ] as const) {
    assert.equal(faultOf(topic, value, keyed(226)), 'the header idempotency_key must have at most 900 bytes');
    assert.equal(faultOf(topic, value, keyed(225)), undefined);
  }
  assert.equal(faultOf(MEMORY, memory, keyed(255)), undefined);
  const derived = ask('backup.tasks', { ...backup, type: '🦊'.repeat(230), source: 'x' });
  assert.match('ok' in derived ? derived.idempotencyKey : '', /^backup:[0-9a-f]{64}$/);
});

const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`;

test('what is no JSON object, or holds what cannot be kept, has a sentence', () => {
  const faults: [value: string | Uint8Array | null, fault: RegExp][] = [
    [null, /^the record has no value \(a tombstone\)$/],
    ['', /^the value is empty$/],
    [new Uint8Array([0x7b, 0xff, 0x7d]), /^the value is not UTF-8$/],
    ['{"a": ', /^the value is not JSON$/],
    [`\uFEFF${JSON.stringify(memory)}`, /^the value is not JSON$/],
    ['NaN', /^the value is not JSON$/],
    ['[]', /^the value must be a JSON object: got an array$/],
    ['"text"', /got a text of 4 characters$/],
    [deep(10_000), /nested more than 100 levels deep$/],
    ['['.repeat(1_000_000), /^the value is not JSON$/],
    [deep(500_000), /nested more than 100 levels deep$/],
    [`${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}`, /nested more than 100 levels deep$/],
    [JSON.stringify({ ...memory, more: 'nul \0' }), /NUL or half a surrogate pair$/],
    ['{"name\\ud800": 1}', /NUL or half a surrogate pair$/],
    ['{"a": 1e400}', /larger than 1\.8e308$/],
    [`{"a": -${'9'.repeat(2_000)}}`, /larger than 1\.8e308$/],
    ['{"a": 1e-20000}', /more digits than can be kept$/],
    [`{"a": 0.${'0'.repeat(20_000)}1}`, /more digits than can be kept$/],
    ['x'.repeat(1_048_576), /^the value is not JSON$/],
  ];
  for (const [value, expected] of faults) {
    const raw = typeof value === 'string' ? bytes(value) : value;
    assert.match(faultOf(MEMORY, '', { value: raw }) ?? 'none', expected);
  }
  const nested = (levels: number) => ({ ...memory, payload: { deep: JSON.parse(deep(levels)) } });
  assert.equal(faultOf(MEMORY, nested(98)), undefined);
  assert.match(faultOf(MEMORY, nested(99))!, /100 levels/);
});

test('each field at fault is named', () => {
  const longTenant = 't'.repeat(256);
  const faults: [topic: ConsumedTopic, value: unknown, fault: string][] = [
    [
      MEMORY,
      {},
      'memory_id must be a text of 1 to 255 characters: got nothing; ' +
        'tenant_id must be a text of 1 to 255 characters: got nothing; payload must be an object: got nothing',
    ],
    [
      MEMORY,
      { ...memory, tenant_id: longTenant },
      'tenant_id must be a text of 1 to 255 characters: got a text of 256 characters',
    ],
    [MEMORY, { ...memory, payload: 'text' }, 'payload must be an object: got a text of 4 characters'],
    [
      MEMORY,
      '{"memory_id":"m","tenant_id":"a","payload":{},"payload":[]}',
      'payload must be an object: got an array',
    ],
    [MEMORY, { ...memory, memory_id: 7 }, 'memory_id must be a text of 1 to 255 characters: got a number'],
    [
      'upload.retry',
      { ...upload, data_b64: 'AQI' },
      'data_b64 must be base64, or null: got a text of 3 characters',
    ],
    ['upload.retry', { ...upload, size: 4 }, 'size is 4, but data_b64 holds 3 bytes'],
    ['upload.retry', { ...upload, size: -1 }, 'size must be a number of bytes: got a number'],
    [
      'upload.retry',
      { ...upload, data_b64: null },
      'data_b64 and data_ref are missing: the producer sent no bytes',
    ],
    [
      'backup.tasks',
      { ...backup, queued_at: 'yesterday' },
      'queued_at must be a moment such as 2026-01-31T12:00:00Z: got a text of 9 characters',
    ],
    ['backup.tasks', { ...backup, metadata: [] }, 'metadata must be an object, or null: got an array'],
  ];
  for (const [topic, value, fault] of faults) assert.equal(faultOf(topic, value), fault);
});

test('a key that names another tenant is a fault; a field that a prototype has is not there', () => {
  for (const key of ['globex', '', 'acme '])
    assert.equal(faultOf(MEMORY, memory, { key: bytes(key) }), "the record's key must be its tenant_id");
  assert.equal(
    faultOf(MEMORY, memory, { key: new Uint8Array([0xff]) }),
    "the record's key must be its tenant_id",
  );
  assert.match(
    faultOf(MEMORY, '{"__proto__": {"memory_id": "m", "tenant_id": "a", "payload": {}}}')!,
    /got nothing/,
  );
});

test('numbers keep every digit; of a key that is there twice the last counts', () => {
  const source = '{"id":12345678901234567890,"ratio":0.1234567890123456789,"short":1.5,"again":1}';
  const value = `{"memory_id":"m","tenant_id":"t","payload":${source.replace('"again":1', '"again":0,"again":1')}}`;
  const understood = understand(MEMORY, record(MEMORY, value), sha256);
  assert.equal('ok' in understood && JSON.stringify(understood.ok.payload), source);
});

test('whatever the bytes are, there is an answer', () => {
  const text = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.json().map(bytes),
    fc
      .record({ memory_id: fc.string(), tenant_id: fc.string(), payload: fc.object() })
      .map((made) => bytes(JSON.stringify(made))),
  );
  fc.assert(
    fc.property(
      text,
      fc.constantFrom<ConsumedTopic>(MEMORY, 'upload.retry', 'backup.tasks'),
      (value, topic) => {
        const understood = ask(topic, '', { value });
        if ('fault' in understood) return understood.fault.length > 0;
        return [...understood.idempotencyKey].length <= 255;
      },
    ),
    { numRuns: 500 },
  );
});
