import type { Gate, ProbeResult } from './health.ts';
import { TIER_NAMES, type TierName } from './uploads.ts';

/**
 * Whether a tier is worth trying, as the canaries of the health cycle tell.
 *
 *        2 failed canaries in a row
 *   in ─────────────────────────────▶ out
 *      ◀─────────────────────────────
 *          2 good ones in a row
 */
export interface TierStanding {
  out: boolean;
  /** So many canaries in a row said otherwise. */
  against: number;
}

/** Of the tiers that have canaries. Plain JSON: it is part of what the health cycle remembers. */
export type TierStandings = Partial<Record<TierName, TierStanding>>;

const IN: TierStanding = { out: false, against: 0 };
const CONFIRMED = 2;
/** For so many cycles a tier stays out without a further failed canary: nobody depends on the health cycle being alive. */
const CYCLES_OUT = 4;

export const TIER_GATES = {
  s3: 'storage/s3',
  filesystem: 'storage/filesystem',
  redis: 'storage/redis',
} as const;
export type TierGate = (typeof TIER_GATES)[TierName];

/** @param failed undefined: there was no canary, or it was the probing itself that failed */
export function judgeTier(before: TierStanding, failed: boolean | undefined): TierStanding {
  if (failed === undefined) return before;
  if (failed === before.out) return { ...before, against: 0 };
  const against = before.against + 1;
  return against >= CONFIRMED ? { out: failed, against: 0 } : { ...before, against };
}

/**
 * What the probe of the storage tells of its tiers: their standings, and the gates to be written. Tiers that have no
 * canary any more are forgotten; a probe that failed by itself changes nothing.
 */
export function judgeTiers(
  before: TierStandings = {},
  { outcome, members = {} }: ProbeResult,
  moment: { now: number; full: boolean; intervalSeconds: number },
): { tiers: TierStandings; gates: Gate[] } {
  if (outcome === 'unknown') return { tiers: before, gates: [] };
  const tiers: TierStandings = {};
  const gates: Gate[] = [];
  for (const name of TIER_NAMES) {
    const canary = members[name];
    if (!canary) continue;
    const failed = canary.outcome === 'unknown' ? undefined : canary.outcome === 'down';
    const was = before[name] ?? IN;
    const is = judgeTier(was, failed);
    tiers[name] = is;
    // Only a canary renews a gate; the soft probes between two cycles need not.
    const isRenewed = is.out && failed !== undefined && moment.full;
    if (is.out !== was.out || isRenewed) gates.push(gateOf(name, is, moment));
  }
  return { tiers, gates };
}

function gateOf(
  tier: TierName,
  { out }: TierStanding,
  { now, intervalSeconds }: { now: number; intervalSeconds: number },
): Gate {
  const until = now + CYCLES_OUT * intervalSeconds * 1000;
  return { component: TIER_GATES[tier], openUntil: out ? new Date(until).toISOString() : null };
}

/** The configured tiers in their order, without those that are out; all of them if all are out: somebody has to try. */
export function worthTrying(configured: readonly TierName[], out: readonly TierName[]): TierName[] {
  const left = configured.filter((tier) => !out.includes(tier));
  return left.length > 0 ? left : [...configured];
}
