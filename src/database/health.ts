import type pg from 'pg';
import type { Gate, HealthNotice, HealthRecord, HealthTransition } from '../domain/health.ts';
import { DEGRADATION_TOPIC } from '../domain/topics.ts';
import { enqueue } from './outbox.ts';
import { inTransaction, type Queryable } from './postgres.ts';

/**
 * Writes down what a cycle leaves, in one transaction: all of it is there afterwards, or nothing. A transition or a notice
 * that is there already is left as it is, so the same record written twice changes nothing. Notices are relayed in the
 * order in which they are given.
 * @throws OrchestratorError invalid_message if a notice cannot be stored
 */
export function recordHealth(client: pg.ClientBase, record: HealthRecord): Promise<void> {
  const { transitions, notices, gates } = storable(record);
  return inTransaction(client, async () => {
    await insertTransitions(client, transitions);
    await setGates(client, gates);
    for (const notice of notices) await enqueueNotice(client, notice);
  });
}

/** Errors are quoted from elsewhere and may hold what Postgres cannot store: NUL, and half a surrogate pair. */
const storable = (record: HealthRecord): HealthRecord =>
  JSON.parse(JSON.stringify(record), (_, value) =>
    typeof value === 'string' ? value.toWellFormed().replaceAll('\0', '\uFFFD') : value,
  );

async function insertTransitions(client: Queryable, transitions: HealthTransition[]): Promise<void> {
  if (transitions.length === 0) return;
  // By jsonb, because unnest would take apart the arrays that the rows hold.
  await client.query(
    `INSERT INTO orchestrator.health_transition
       (key, component, event, from_level, to_level, at, suppressed_by, error)
     SELECT key, component, event, "from", "to", at, suppressed_by, error
     FROM jsonb_to_recordset($1::jsonb) AS transition (key text, component text, event text, "from" text, "to" text,
       at timestamptz, suppressed_by text[], error text)
     ON CONFLICT (key) DO NOTHING`,
    [JSON.stringify(transitions.map((transition) => ({ ...transition, key: transitionKey(transition) })))],
  );
}

const transitionKey = ({ component, event, at }: HealthTransition): string =>
  `${component}:${event}:${Date.parse(at)}`;

/** Of two gates of one component the last counts. One that stays as it is, is not written: `updated_at` tells of changes. */
async function setGates(client: Queryable, gates: Gate[]): Promise<void> {
  const last = new Map(gates.map(({ component, openUntil }) => [component, openUntil]));
  if (last.size === 0) return;
  await client.query(
    `INSERT INTO orchestrator.health_gate AS gate (component, open_until)
     SELECT * FROM unnest($1::text[], $2::timestamptz[])
     ON CONFLICT (component) DO UPDATE SET open_until = excluded.open_until, updated_at = now()
     WHERE gate.open_until IS DISTINCT FROM excluded.open_until`,
    [[...last.keys()], [...last.values()]],
  );
}

async function enqueueNotice(client: Queryable, notice: HealthNotice): Promise<void> {
  const { idempotencyKey, component, severity, payload } = notice;
  const headers = { event_type: 'degradation', severity };
  await enqueue(client, { idempotencyKey, topic: DEGRADATION_TOPIC, key: component, payload, headers });
}
