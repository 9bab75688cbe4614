import type { HealthPlan, ProbeResult, ProbeResults } from './health.ts';
import { dependentsOf } from './healthCascade.ts';
import { COMPONENT_NAMES, type ComponentName } from './healthComponents.ts';

/** Fewer than these may well hang at the same time. */
const MASS = 3;

/**
 * That everything should hang at once, or that several cannot be found at once, is less likely than that our own network
 * or resolver fails. What has failed already, and what hangs because of another, does not count.
 */
export function sifted(
  plan: HealthPlan,
  results: ProbeResults,
  hasFailed: (name: ComponentName) => boolean,
): ProbeResults {
  const lost = COMPONENT_NAMES.filter((name) => results[name]?.unrouted && !hasFailed(name));
  // Backups are asked for at the database's address, which counts once.
  if (lost.filter((name) => name !== 'backup_service').length >= MASS)
    return blinded(results, lost, 'no way to several components at once');
  const asked = COMPONENT_NAMES.filter((name) => results[name] && isWitness(results[name]));
  if (!asked.every((name) => results[name]!.outcome === 'down' && results[name]!.timedOut)) return results;
  const following = new Set(asked.flatMap((name) => dependentsOf(plan, name)));
  if (asked.filter((name) => !hasFailed(name) && !following.has(name)).length < MASS) return results;
  return blinded(results, COMPONENT_NAMES, 'every probe timed out at once');
}

/** A group that only a tier on this host keeps up says nothing of the network. */
const isWitness = ({ outcome, members = {} }: ProbeResult): boolean =>
  outcome === 'down' || (outcome === 'up' && !Object.values(members).some(({ timedOut }) => timedOut));

function blinded(results: ProbeResults, names: readonly ComponentName[], what: string): ProbeResults {
  const error = `${what}: our own network is the likelier cause`;
  const blind = names.flatMap((name) => {
    const result = results[name];
    return result ? [[name, { ...result, outcome: 'unknown' as const, error }]] : [];
  });
  return { ...results, ...Object.fromEntries(blind) };
}
