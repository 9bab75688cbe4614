// The words of the memory sync: what crosses the borders between its activity, SomaBrain's client and its users.

/** Where memories come from by Kafka, and where their dead letters are replayed to. */
export const MEMORY_TOPIC = 'somabrain.memory.remember';
/** The platform's own default. */
export const DEFAULT_NAMESPACE = 'wm';

/** A tenant as it stands in idempotency keys: none of its colons ends it, so no two tenants share a key. */
export const tenantInKey = (tenant: string, digest: (tenant: string) => string): string =>
  tenant.includes(':') ? digest(tenant) : tenant;

/** A memory on its way to SomaBrain. */
export interface OutgoingMemory {
  tenant: string;
  namespace: string;
  /** The idempotency key; SomaBrain stores a memory once by it. */
  key: string;
  /** JSON text, passed through so that no number loses digits. */
  payload: string;
  /** When it was written down; ISO 8601. */
  createdAt: string;
  /** How often it was rejected so far. */
  attempts: number;
}

/** A queued memory as the sync claims it. `payload` is null where it is larger than MAX_MEMORY_BYTES. */
export interface PendingMemory extends Omit<OutgoingMemory, 'payload'> {
  id: string;
  payload: string | null;
  bytes: number;
}

/**
 * What became of one memory in a call:
 *
 * - `stored`: SomaBrain has it, now or from an earlier call under the same key.
 * - `rejected`: it will not have this memory; spends an attempt.
 * - `busy`: not this memory now (its key is being worked on); its tenant waits, others don't.
 * - `away`: not the memory's fault (no answer, an outage, an answer that makes no sense). It may or may not be stored:
 *   it is sent again under the same key.
 * - `unsent`: it was not tried, because one before it was not stored.
 */
export type MemoryOutcome =
  | { kind: 'stored' }
  | { kind: 'rejected'; reason: string }
  | { kind: 'busy'; reason: string }
  | { kind: 'away'; reason: string; retryAfterMs?: number }
  | { kind: 'unsent' };

/** The way to SomaBrain: memories of one tenant and namespace, in order; one outcome for each. Throws nothing. */
export interface MemoryStore {
  remember(memories: OutgoingMemory[], signal?: AbortSignal): Promise<MemoryOutcome[]>;
}

/** Bounds of one call, and of how many are under way. */
export const MAX_CALL_MEMORIES = 100;
export const MAX_CALL_BYTES = 1_000_000;
export const MAX_CALLS = 8;
/** A larger memory is not even read; it is rejected. */
export const MAX_MEMORY_BYTES = 4 * 1024 * 1024;
/** What `remember` takes: as jsonb it is at most half as long again, and fits into the Kafka record of its replay. */
export const MEMORY_LIMIT_BYTES = 600_000;
/** So many rejections make a memory a dead letter. */
export const MAX_SYNC_ATTEMPTS = 5;

/** `memorySync`'s answer to the query `status`. */
export interface MemorySyncStatus {
  state: MemorySyncState;
  /** Memories that wait, counted up to 100,000. */
  pending: number;
  /** Age of the one that waits longest. */
  oldest_seconds: number;
  /** Since the deployment began, as the book in Postgres counts them. */
  synced_total: number;
  dead_total: number;
  /** Of the last seconds. */
  synced_per_second: number;
  last_error: string | null;
  /** Those with the most pending memories; at most ten. */
  tenants: TenantDepth[];
  /** When `state` became what it is; ISO 8601. */
  since: string;
}

export interface TenantDepth {
  tenant: string;
  pending: number;
}

/**
 *            memories pending        drained
 *   idle ───────────────────▶ syncing ─────────▶ idle
 *     │                          │
 *     └── SomaBrain or Postgres away ──▶ waiting ──▶ back: idle or syncing
 *
 *   any ── signal pause ──▶ paused ── signal resume ──▶ idle
 */
export type MemorySyncState = 'syncing' | 'idle' | 'waiting' | 'paused';

/** What the sync's activity tells its workflow as it goes. */
export interface MemorySyncReport {
  state: Exclude<MemorySyncState, 'paused'>;
  /** Null where Postgres could not be asked. */
  counts: MemoryCounts | null;
  lastError: string | null;
}

export type MemoryCounts = Pick<
  MemorySyncStatus,
  'pending' | 'oldest_seconds' | 'synced_total' | 'dead_total' | 'synced_per_second' | 'tenants'
>;

/** Workflow type's only id: there is one a deployment. */
export const MEMORY_WORKFLOW_ID = 'memory-sync';
export const MEMORY_SUMMARY = 'queued memories to SomaBrain: each once, in order for each tenant';
/** The signal that carries a MemorySyncReport; for the activity, not for people. */
export const MEMORY_REPORT_SIGNAL = 'report';
/** The sync's activity runs for a minute; a queue of its own keeps it from taking the slots of short ones. */
export const memoryTaskQueue = (taskQueue: string): string => `${taskQueue}-memory`;
