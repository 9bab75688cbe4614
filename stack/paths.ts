// Where the stack keeps things: outside the repository, so that they survive `git clean` and are shared by clones.
import { homedir } from 'node:os';
import path from 'node:path';

const folder = 'somaagent-orchestrator';

/**
 * Root runs PostgreSQL under another account (it refuses root), and that account cannot enter root's home.
 * So root's defaults are the system's directories.
 */
export const isRoot = process.getuid?.() === 0;

/** Programs, fetched or built once: `$XDG_CACHE_HOME/somaagent-orchestrator`. */
export function cacheRoot(): string {
  return place('XDG_CACHE_HOME', '/var/cache', '.cache');
}

/** Data of the services: `$XDG_STATE_HOME/somaagent-orchestrator`. */
export function stateRoot(): string {
  return place('XDG_STATE_HOME', '/var/lib', '.local/state');
}

function place(variable: string, ofRoot: string, ofUser: string): string {
  const chosen = process.env[variable];
  // The XDG specification says to ignore relative paths.
  if (chosen && path.isAbsolute(chosen)) return path.join(chosen, folder);
  return path.join(isRoot ? ofRoot : path.join(homedir(), ofUser), folder);
}
