import type { ProbeResult } from '../domain/health.ts';
import { shorten } from './failure.ts';

type Member = [name: string, result: ProbeResult];

/**
 * What the members of a redundancy group make of it; they are in the order in which they should serve.
 *   any up             up, as fast as the first that is up; and at least as bad as that one says it is, and at least
 *                      moderate if the first member is down, or all but one of three or more are
 *                      minor if any other is down
 *   all down           down, timed out if all of them are
 *   else               unknown: who is down is known, but not of all
 */
export function judgeGroup(members: Member[]): ProbeResult {
  const group = { members: Object.fromEntries(members.map(withoutOwnLevel)) };
  const errors = members.filter(([, { error }]) => error !== undefined);
  const error = errors.length > 0 ? { error: sumUp(errors) } : {};
  const serving = members.find(([, { outcome }]) => outcome === 'up');
  if (serving) {
    const atLeast = worse(serving[1].atLeast, lostRedundancy(members));
    return {
      outcome: 'up',
      seconds: serving[1].seconds,
      ...(atLeast ? { atLeast } : {}),
      ...error,
      ...group,
    };
  }
  const seconds = Math.max(0, ...members.map(([, result]) => result.seconds));
  const outcome = members.every(([, result]) => result.outcome === 'down') ? 'down' : 'unknown';
  const timedOut = outcome === 'down' && members.every(([, result]) => result.timedOut);
  const unrouted = outcome === 'down' && members.every(([, result]) => result.unrouted);
  return {
    outcome,
    seconds,
    ...(timedOut ? { timedOut } : {}),
    ...(unrouted ? { unrouted } : {}),
    ...error,
    ...group,
  };
}

function lostRedundancy(members: Member[]): ProbeResult['atLeast'] {
  const down = members.map(([, { outcome }]) => outcome === 'down');
  const lost = down.filter(Boolean).length;
  if (lost === 0) return undefined;
  return down[0] || (members.length > 2 && lost === members.length - 1) ? 'moderate' : 'minor';
}

const worse = (one: ProbeResult['atLeast'], other: ProbeResult['atLeast']): ProbeResult['atLeast'] =>
  [one, other].includes('moderate') ? 'moderate' : (one ?? other);

const withoutOwnLevel = ([name, { outcome, seconds, timedOut, error }]: Member) =>
  [name, { outcome, seconds, ...(timedOut ? { timedOut } : {}), ...(error ? { error } : {}) }] as const;

/** Names each, within the bounds of one text. */
function sumUp(errors: Member[]): string {
  const each = Math.floor(300 / errors.length) - 2;
  return errors.map(([name, { error }]) => shorten(`${name}: ${error}`, each)).join('; ');
}
