import { createHash } from 'node:crypto';
import { OrchestratorError } from '../domain/errors.ts';
import { DEFAULT_NAMESPACE, type MemoryStore, tenantInKey } from '../domain/memories.ts';
import { type Memory, memoryFaults, sortedJson } from '../domain/memoryFaults.ts';
import { KEY_OF_ANOTHER, queueMemories } from './pendingMemories.ts';
import type { Queryable } from './postgres.ts';

export interface Remembered {
  /** `stored`: SomaBrain has it. `queued`: memorySync brings it there once the caller's transaction commits. */
  status: 'stored' | 'queued';
  idempotencyKey: string;
}

const KEY_LENGTH = 255;
const HASH_DIGITS = 16;

/**
 * Has SomaBrain remember something, inside the caller's own transaction: queued if and only if that commits. Under one
 * idempotency key it is remembered once; by default the key is made of tenant, namespace and content.
 *
 * With `direct`, SomaBrain is asked first, and the memory is queued only where it does not say that it has stored it
 * (an outage, a rejection). That call is no part of the transaction. Where memories of the tenant are waiting, this one
 * queues up behind them.
 * @throws OrchestratorError invalid_message, naming each field at fault; idempotency_mismatch, if the key belongs to
 *   another tenant or namespace. The transaction is still usable.
 */
export async function remember(
  client: Queryable,
  memory: Memory,
  { direct }: { direct?: MemoryStore } = {},
): Promise<Remembered> {
  const faults = memoryFaults(memory);
  if (faults.length > 0) throw new OrchestratorError('invalid_message', faults.join('; '));
  const { tenant, namespace = DEFAULT_NAMESPACE, payload } = memory;
  const idempotencyKey = memory.idempotencyKey ?? defaultKey(tenant, namespace, payload);
  const queued = { tenant, namespace, payload, idempotencyKey };
  if (direct && !(await hasPending(client, tenant))) {
    const createdAt = new Date().toISOString();
    const outgoing = { tenant, namespace, key: idempotencyKey, payload: JSON.stringify(payload), createdAt };
    const [outcome] = await direct.remember([{ ...outgoing, attempts: 0 }]);
    if (outcome?.kind === 'stored') return { status: 'stored', idempotencyKey };
  }
  const { foreign } = await queueMemories(client, [queued]);
  if (foreign.length > 0) throw new OrchestratorError('idempotency_mismatch', KEY_OF_ANOTHER);
  return { status: 'queued', idempotencyKey };
}

/** `memory:{tenant}:{hash}`, as the platform has it. A namespace other than its default counts as content. */
function defaultKey(tenant: string, namespace: string, payload: unknown): string {
  const content = namespace === DEFAULT_NAMESPACE ? payload : [namespace, payload];
  const hash = sha256(sortedJson(content)).slice(0, HASH_DIGITS);
  const key = `memory:${tenantInKey(tenant, sha256)}:${hash}`;
  return [...key].length <= KEY_LENGTH ? key : `memory:${sha256(tenant)}:${hash}`;
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

async function hasPending(client: Queryable, tenant: string): Promise<boolean> {
  const { rowCount } = await client.query(
    'SELECT FROM public.core_pendingmemory WHERE NOT synced AND dead_at IS NULL AND tenant_id = $1 LIMIT 1',
    [tenant],
  );
  return rowCount === 1;
}
