import { MAX_CALL_MEMORIES, MAX_CALLS } from './memories.ts';

const FIRST_BACKOFF_MS = 1_000;
const MAX_BACKOFF_MS = 30_000;
const MAX_WIDTH = Math.max(MAX_CALLS, MAX_CALL_MEMORIES);

/** A call remembers how wide the ramp was, and during which outage it began. */
export interface RampTicket {
  width: number;
  outage: number;
}

/**
 * How hard SomaBrain may be driven. It begins with one call of one memory; each call that is answered doubles both
 * bounds. An outage sets them back to one, and the next try waits 1 s, 2 s, … up to 30 s.
 *
 *   probing (1 call × 1 memory) ── stored ──▶ 2 × 2 ──▶ 4 × 4 ──▶ 8 × 8 ──▶ … ──▶ 8 × 100
 *        ▲                                      │          │         │               │
 *        └──── after the wait ──── away ◀───────┴──────────┴─────────┴───────────────┘
 */
export class MemoryRamp {
  private width = 1;
  private outage = 0;
  /** Tries in a row that found it away. */
  private failures = 0;
  private resumeAt = 0;

  /** How many calls may be under way at once. */
  get calls(): number {
    return Math.min(MAX_CALLS, this.width);
  }

  /** How many memories a call may have. */
  get size(): number {
    return Math.min(MAX_CALL_MEMORIES, this.width);
  }

  /** How long no call may begin; 0 if one may. */
  pauseMs(now: number): number {
    return Math.max(0, this.resumeAt - now);
  }

  get isAway(): boolean {
    return this.failures > 0;
  }

  begin(): RampTicket {
    return { width: this.width, outage: this.outage };
  }

  /** SomaBrain answered, whatever it said of the memories. An answer from before the outage says nothing of now. */
  answered({ width, outage }: RampTicket): void {
    if (outage !== this.outage) return;
    this.failures = 0;
    this.width = Math.max(this.width, Math.min(MAX_WIDTH, width * 2));
  }

  /** SomaBrain is away. Calls that began together and fail together are one failure. */
  away({ outage }: RampTicket, now: number, retryAfterMs = 0): void {
    this.width = 1;
    if (outage === this.outage) {
      this.outage += 1;
      const backoff = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.failures);
      this.failures += 1;
      this.resumeAt = now + backoff;
    }
    this.resumeAt = Math.max(this.resumeAt, now + Math.min(retryAfterMs, MAX_BACKOFF_MS));
  }

  /** There is a hint that SomaBrain is not well: the next call is a probe. */
  beGentle(): void {
    this.width = 1;
  }

  /** There is a hint that it is back, or a person asks: the next probe is due now. */
  hurry(): void {
    this.resumeAt = 0;
  }
}
