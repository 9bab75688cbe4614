import { OrchestratorError } from '../domain/errors.ts';

/** What was told to end and needs longer hangs. */
const GRACE_MS = 1_000;
/** Each holds one of the process's few threads for files and name look-ups, for as long as its mount hangs. */
const MOST = 2;

/** How many operations hang, by the directory that they are on. */
const hanging = new Map<string, number>();

/**
 * Does `work` on a directory, unless two earlier ones hang there: nothing can call back a file operation on a mount that
 * hangs. One that ends after all counts no more.
 * @throws OrchestratorError storage_unavailable
 */
export async function unlessHanging<T>(
  root: string,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  const many = hanging.get(root) ?? 0;
  if (many >= MOST)
    throw new OrchestratorError('storage_unavailable', `${root}: ${many} earlier operations hang`);
  const working = work();
  const leave = () => leaveBehind(root, working);
  signal.addEventListener('abort', leave, { once: true });
  try {
    return await working;
  } finally {
    signal.removeEventListener('abort', leave);
  }
}

/** Nobody waits any more for what is under way on a directory. */
export function leaveBehind(root: string, ended: Promise<unknown>): void {
  let counted = 0;
  const count = (change: number) => {
    counted += change;
    hanging.set(root, (hanging.get(root) ?? 0) + change);
  };
  const timer = setTimeout(() => count(1), GRACE_MS);
  const over = () => {
    clearTimeout(timer);
    count(-counted);
  };
  ended.then(over, over);
}
