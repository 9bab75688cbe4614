import { isDeepStrictEqual } from 'node:util';
import type { Received } from '../support/kafka.ts';

/** A row as the table has it after the round, in the order of insertion. */
export interface CommittedRow {
  id: string;
  topic: string;
  key: string | null;
  payload: unknown;
}

/** What a read_committed consumer saw, against what was committed. All but `rows` has to be 0. */
export interface Verdict {
  rows: number;
  lost: number;
  duplicates: number;
  /** Records behind a later one of their topic and key. */
  inversions: number;
  /** Records of rows that were rolled back, and records that differ from their row. */
  strangers: number;
  /** The first of each kind, for whoever looks into it. */
  examples: string[];
}

export function judge(received: Received[], rows: CommittedRow[]): Verdict {
  const places = new Map(rows.map(({ id }, place) => [id, place]));
  const seen = new Set<string>();
  const lastOfKey = new Map<string, number>();
  const verdict: Verdict = {
    rows: rows.length,
    lost: 0,
    duplicates: 0,
    inversions: 0,
    strangers: 0,
    examples: [],
  };
  const found = (kind: 'lost' | 'duplicates' | 'inversions' | 'strangers', what: string) => {
    if (verdict[kind] === 0) verdict.examples.push(`${kind}: ${what}`);
    verdict[kind] += 1;
  };
  for (const record of received) {
    const id = record.headers.message_id!;
    const told = `${id} of key ${record.key} in partition ${record.partition}`;
    const place = places.get(id);
    if (place === undefined || !isOf(record, rows[place]!)) {
      found('strangers', told);
    } else if (seen.has(id)) {
      found('duplicates', told);
    } else {
      seen.add(id);
      const stream = `${record.topic}/${record.key}`;
      if (record.key !== null && place < (lastOfKey.get(stream) ?? -1)) found('inversions', told);
      lastOfKey.set(stream, place);
    }
  }
  for (const { id, key } of rows) if (!seen.has(id)) found('lost', `${id} of key ${key}`);
  return verdict;
}

const isOf = ({ topic, key, value }: Received, row: CommittedRow): boolean =>
  topic === row.topic && key === row.key && isDeepStrictEqual(JSON.parse(value), row.payload);

export const isClean = ({ lost, duplicates, inversions, strangers }: Verdict): boolean =>
  lost + duplicates + inversions + strangers === 0;

export const describeVerdict = ({
  rows,
  lost,
  duplicates,
  inversions,
  strangers,
  examples,
}: Verdict): string =>
  [
    `${rows} rows: ${lost} lost, ${duplicates} duplicates, ${inversions} inversions, ${strangers} strangers`,
    ...examples,
  ].join('\n');
