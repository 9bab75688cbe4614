/** What Kafka holds about a shard's last committed batch: an offset and its metadata, committed with the records. */
export interface Mark {
  number: number;
  batchId: string;
}

/** What Postgres holds about the same shard. */
export interface Journal {
  /** The last batch whose rows are marked published; number 0 and a null id before the first. */
  settled: { number: number; batchId: string | null };
  /** The batch that was opened and may or may not be in Kafka. */
  open: { number: number; batchId: string; seqs: string[] } | null;
}

/** What a shard has delivered since the deployment began, counted in the same commit that marks the rows. */
export interface OutboxTotals {
  delivered: number;
  batches: number;
}

/**
 * The mark of a shard that has sent nothing. It is committed before the first batch is opened: without it "no mark"
 * would mean the same before the first batch, and after the first batch and the loss of its mark.
 */
export const FIRST_MARK: Mark = { number: 0, batchId: '00000000-0000-0000-0000-000000000000' };

export type TakeoverDecision =
  | { kind: 'proceed' }
  /** A new shard: the first mark has to be committed before anything is opened. */
  | { kind: 'begin' }
  /** Kafka has the open batch: its rows only have to be marked. */
  | { kind: 'settle' }
  /** Kafka does not have it, and never will (its producer is fenced): it has to be sent. */
  | { kind: 'resend' }
  /** The two contradict one another. Going on could lose or double messages, so a person decides. */
  | { kind: 'stop'; reason: string };

/**
 * Decides what a relay does with the batch that its predecessor may have left behind.
 *
 *     open n ──▶ send n (one Kafka transaction: records + mark n) ──▶ settle n, open n+1
 *        │                    │                                          │
 *   killed here:         killed here:                              killed here:
 *   mark = n-1           mark = n                                  mark = n, none open
 *   → resend             → settle                                  → proceed
 *
 * Sound only if both sides are fenced (epoch raised, producer initialised, which ends its predecessor's last
 * transaction one way or the other) before mark or journal is read, and the mark is read behind a barrier. Every other
 * combination means that one side was set back (Postgres restored from an older copy, the group's offsets deleted or
 * expired).
 */
export function decideTakeover(journal: Journal, mark: Mark | undefined): TakeoverDecision {
  const { settled, open } = journal;
  if (open && mark && mark.number === open.number && mark.batchId === open.batchId) return { kind: 'settle' };
  if (mark && isExactly(settled, mark)) return { kind: open ? 'resend' : 'proceed' };
  if (!mark && !open && settled.number === FIRST_MARK.number) return { kind: 'begin' };
  return { kind: 'stop', reason: contradiction(journal, mark) };
}

function isExactly({ number, batchId }: Journal['settled'], mark: Mark): boolean {
  return mark.number === number && mark.batchId === (batchId ?? FIRST_MARK.batchId);
}

function contradiction({ settled, open }: Journal, mark: Mark | undefined): string {
  const postgres = open
    ? `batch ${settled.number} as settled and ${open.number} (${open.batchId}) as open`
    : `batch ${settled.number} (${settled.batchId ?? 'none yet'}) as settled and none open`;
  const kafka = mark ? `batch ${mark.number} (${mark.batchId}) as its last` : 'no batch at all';
  return `Postgres knows ${postgres}, Kafka knows ${kafka}`;
}
