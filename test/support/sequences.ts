import assert from 'node:assert/strict';
import type { Received } from './kafka.ts';
import type { Row } from './outbox.ts';

/** Rows whose payload is their place in the sequence of their (topic, key), interleaved over all of these. */
export function numberedRows({
  topics,
  keys,
  perKey,
}: {
  topics: string[];
  keys: number;
  perKey: number;
}): Row[] {
  const rows: Row[] = [];
  for (let number = 0; number < perKey; number += 1) {
    for (const topic of topics) {
      for (let key = 0; key < keys; key += 1) rows.push({ topic, key: `key-${key}`, payload: { number } });
    }
  }
  return rows;
}

/** Fails unless each of `rows` was received once and each (topic, key) in the order of its rows. */
export function assertExactlyOnceInOrder(received: Received[], rows: Row[]): void {
  const expected = grouped(
    rows.map(({ topic, key, payload }) => ({ topic, key: key ?? null, value: JSON.stringify(payload) })),
  );
  // Postgres writes jsonb with blanks of its own.
  const actual = grouped(
    received.map((record) => ({ ...record, value: JSON.stringify(JSON.parse(record.value)) })),
  );
  for (const [stream, values] of expected)
    assert.deepEqual(actual.get(stream), values, `records of ${stream}`);
  assert.equal(received.length, rows.length, 'no record that nobody wrote');
}

function grouped(records: { topic: string; key: string | null; value: string }[]): Map<string, string[]> {
  const streams = new Map<string, string[]>();
  for (const { topic, key, value } of records) {
    const stream = `${topic}/${key}`;
    const values = streams.get(stream);
    if (values) values.push(value);
    else streams.set(stream, [value]);
  }
  return streams;
}
