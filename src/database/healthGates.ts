import type { ComponentName } from '../domain/healthComponents.ts';
import type { Queryable } from './postgres.ts';

export interface GateState {
  /** Only trials of the component are worth making until `openUntil`. */
  open: boolean;
  /** Null where no breaker is, or ever was, open; it may be past. */
  openUntil: Date | null;
}

/**
 * Whether a component's breaker is open, by Postgres's clock. A gate that is missing or past is not open: whoever asks
 * goes on as if there were no health cycle. An error of Postgres is thrown as pg has it; it says nothing of the
 * component, so callers count it as not open.
 */
export async function readGate(client: Queryable, component: ComponentName): Promise<GateState> {
  const { rows } = await client.query<GateState>(
    `SELECT coalesce(open_until > now(), false) AS open, open_until AS "openUntil"
     FROM orchestrator.health_gate WHERE component = $1`,
    [component],
  );
  return rows[0] ?? { open: false, openUntil: null };
}
