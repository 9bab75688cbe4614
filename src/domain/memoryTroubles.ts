import { MAX_CALL_MEMORIES } from './memories.ts';

const FIRST_WAIT_MS = 2_000;
const MAX_WAIT_MS = 300_000;
/** Whose wait ended this long ago without another failure has none any more: somebody took its memory away. */
const FORGOTTEN_MS = 60_000;

interface Trouble {
  /** In a row. */
  waits: number;
  until: number;
  /** How many memories its calls may have. */
  size: number;
  /** How many calls of all tenants had been answered at its last one. */
  answers: number;
  /** Null: it waits for nothing. */
  reason: string | null;
}

/**
 * Tenants whose calls fail while those of others are answered: one memory that breaks SomaBrain, a limit for one tenant,
 * a key that is never let go of. Such a tenant waits 2 s, 4 s, … up to 5 minutes by itself, and the others go on.
 *
 *   none ── failed ──▶ suspect ── failed again, others were answered since ──▶ waiting
 *    ▲                 (1, 2, 4, … memories a call)                              │
 *    │                    │      ▲                                               │
 *    └── stored, 7 calls ─┘      └───────────────── wait over ◀──────────────────┘
 *
 * A first failure may be an outage, which is everybody's. It is not written down: a worker that takes over begins anew.
 */
export class MemoryTroubles {
  private answers = 0;
  private readonly troubles = new Map<string, Trouble>();

  /** How many memories a call of this tenant may have. */
  size(tenant: string): number {
    return this.troubles.get(tenant)?.size ?? MAX_CALL_MEMORIES;
  }

  /** Tenants that wait; `now` in milliseconds. */
  waiting(now: number): string[] {
    for (const [tenant, { until }] of this.troubles)
      if (until + FORGOTTEN_MS <= now) this.troubles.delete(tenant);
    return [...this.troubles].filter(([, { until }]) => until > now).map(([tenant]) => tenant);
  }

  /** Why a tenant waits, for people; null if none does. */
  get reason(): string | null {
    for (const [tenant, { reason }] of this.troubles) if (reason) return `tenant ${tenant} waits: ${reason}`;
    return null;
  }

  /** A call of the tenant was answered; `stored` if something was stored by it. */
  answered(tenant: string, stored: boolean): void {
    this.answers += 1;
    const trouble = this.troubles.get(tenant);
    if (!trouble) return;
    trouble.answers = this.answers;
    if (!stored) return;
    Object.assign(trouble, { waits: 0, size: trouble.size * 2, reason: null });
    if (trouble.size >= MAX_CALL_MEMORIES) this.troubles.delete(tenant);
  }

  /** A call of the tenant failed. Whether that is its own matter: others were answered since its last call. */
  failed(tenant: string, now: number): boolean {
    const trouble = this.troubles.get(tenant);
    const isOwn = trouble !== undefined && trouble.answers < this.answers;
    if (trouble) trouble.answers = this.answers;
    else this.troubles.set(tenant, { waits: 0, until: now, size: 1, answers: this.answers, reason: null });
    return isOwn;
  }

  /** The tenant waits, for `atLeastMs` if SomaBrain says so. */
  wait(tenant: string, reason: string, now: number, atLeastMs = 0): void {
    const { waits, answers } = this.troubles.get(tenant) ?? { waits: 0, answers: this.answers };
    const ms = Math.min(MAX_WAIT_MS, Math.max(FIRST_WAIT_MS * 2 ** waits, atLeastMs));
    this.troubles.set(tenant, { waits: waits + 1, until: now + ms, size: 1, answers, reason });
  }
}
