import { setTimeout as delay } from 'node:timers/promises';

/**
 * Waits until `look` returns something truthy and returns that. `what` names it in the failure; errors of `look` count
 * as "not yet" and the last one is the failure's cause. The limit is for runs that would never end, not a measure.
 */
export async function eventually<T>(
  what: string,
  look: () => T | Promise<T>,
  { withinMs = 60_000, everyMs = 50 } = {},
): Promise<NonNullable<T>> {
  const deadline = Date.now() + withinMs;
  let cause: unknown;
  while (Date.now() < deadline) {
    try {
      const found = await look();
      if (found) return found;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    await delay(everyMs);
  }
  throw new Error(`not within ${withinMs / 1000} s: ${what}`, { cause });
}
