import type { TierName } from '../domain/uploads.ts';
import { TIER_GATES, worthTrying } from '../domain/uploadTiers.ts';
import type { Queryable } from './postgres.ts';

/**
 * The configured tiers in their order, without those whose canaries failed lately. It is a hint, and never fails: where
 * nothing is known, or Postgres does not say, all are worth trying. A health cycle that is dead keeps no tier out for
 * longer than four of its cycles.
 */
export async function tiersWorthTrying(
  client: Queryable,
  configured: readonly TierName[],
): Promise<TierName[]> {
  const out = await tiersOut(client).catch(() => []);
  return worthTrying(configured, out);
}

/** Whether the tier's canaries failed lately. As above, it is a hint, and false where nothing is known. */
export const isTierOut = async (client: Queryable, tier: TierName): Promise<boolean> =>
  (await tiersOut(client).catch((): TierName[] => [])).includes(tier);

async function tiersOut(client: Queryable): Promise<TierName[]> {
  const { rows } = await client.query<{ component: string }>(
    'SELECT component FROM orchestrator.health_gate WHERE component = ANY ($1) AND open_until > now()',
    [Object.values(TIER_GATES)],
  );
  const names = Object.keys(TIER_GATES) as TierName[];
  return names.filter((name) => rows.some(({ component }) => component === TIER_GATES[name]));
}
