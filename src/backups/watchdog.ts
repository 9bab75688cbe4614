import { failed } from './names.ts';

/** Longer than pg_dump waits for a lock. */
const SILENCE_MS = 15 * 60_000;
/** What was aborted has so long to end and to clear away. A call to a network drive that is gone never ends. */
const END_MS = 60_000;

/**
 * Runs `work`, and aborts its signal if it does not say that it is `alive` for 15 minutes, or for as long as it said.
 * What does not end although it was aborted is left to itself.
 * @throws the reason of the abort; OrchestratorError backup_failed for silence
 */
export async function watched<T>(
  outer: AbortSignal,
  work: (signal: AbortSignal, alive: (forMs?: number) => void) => Promise<T>,
): Promise<T> {
  const silence = new AbortController();
  const signal = AbortSignal.any([outer, silence.signal]);
  const { promise: abandoned, reject } = Promise.withResolvers<never>();
  let timer: NodeJS.Timeout | undefined;
  let ending: NodeJS.Timeout | undefined;
  const alive = (forMs = SILENCE_MS) => {
    clearTimeout(timer);
    const why = `nothing came or went for ${Math.round(forMs / 60_000)} minutes`;
    timer = setTimeout(() => silence.abort(failed(why)), forMs);
  };
  const onAbort = () => {
    ending = setTimeout(() => reject(signal.reason), END_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  alive();
  try {
    return await Promise.race([work(signal, alive), abandoned]);
  } catch (error) {
    // What follows from an abort says something else.
    signal.throwIfAborted();
    throw error;
  } finally {
    clearTimeout(timer);
    clearTimeout(ending);
    signal.removeEventListener('abort', onAbort);
  }
}
