import type { BreakerPlan } from './healthComponents.ts';

/**
 * A circuit breaker that is fed by probes.
 *
 *            `failures` in a row                     a probe succeeds
 *   closed ──────────────────────▶ open ──────────────────────────────▶ half_open
 *      ▲                          ▲    │ its time is over, a probe fails    │   │
 *      │                          │    ▼ (open again, twice as long)        │   │
 *      │                          └────┘                                    │   │
 *      │                          ▲            a probe fails                │   │
 *      │                          └──── (open again, twice as long) ────────┘   │
 *      └──────────────────────────── `trials` successes in a row ───────────────┘
 *
 * Probing goes on while it is open: a probe costs the component's users nothing, so its success is a trial that need
 * not wait. Whoever reads it as a gate makes trials of its own when `until` has passed.
 */
export type BreakerState =
  | { state: 'closed'; failures: number }
  | { state: 'open'; until: number; times: number }
  | { state: 'half_open'; successes: number; times: number };

export const CLOSED: BreakerState = { state: 'closed', failures: 0 };

/** Open times are shortened by up to this share, so that what opened together is not tried together. */
const JITTER = 0.2;

/** @param random from 0 to 1 */
export function tripped(
  before: BreakerState,
  failed: boolean,
  { plan, now, random }: { plan: BreakerPlan; now: number; random: number },
): BreakerState {
  const open = (times: number): BreakerState => {
    const seconds = Math.min(plan.maxOpenSeconds, plan.openSeconds * 2 ** (times - 1));
    return { state: 'open', until: now + Math.round(seconds * 1000 * (1 - JITTER * random)), times };
  };
  const succeed = (successes: number, times: number): BreakerState =>
    successes >= plan.trials ? CLOSED : { state: 'half_open', successes, times };
  switch (before.state) {
    case 'closed': {
      const failures = failed ? before.failures + 1 : 0;
      return failures >= plan.failures ? open(1) : { state: 'closed', failures };
    }
    case 'open':
      if (!failed) return succeed(1, before.times);
      return now >= before.until ? open(before.times + 1) : before;
    case 'half_open':
      return failed ? open(before.times + 1) : succeed(before.successes + 1, before.times);
  }
}
