import { MAX_CALL_BYTES, type MemoryOutcome, type PendingMemory } from './memories.ts';

interface Turn {
  /** Claimed and not yet stored, in order; the head is what is being sent. */
  queue: PendingMemory[];
  calling: boolean;
  /** Answered, but not yet written down. */
  unsettled: number;
}

/**
 * Who is sent next. Tenants take turns, one call each; within a tenant the order of insertion holds, because it has at
 * most one call under way and what is not stored stays in front.
 *
 *   add ──▶ in line ── next ──▶ calling ── answered ──▶ in line again, at the end
 *             ▲                              │ nothing left, rejected or busy
 *             └── claimed anew ◀── forgotten ◀── settled
 *
 * A tenant that is known here must not be claimed: what it has in Postgres is here already, or not written down yet.
 */
export class MemoryTurns {
  /** In the order of their turns. */
  private readonly turns = new Map<string, Turn>();

  /** Takes claimed memories of tenants that are not known yet, each tenant's in order. */
  add(memories: PendingMemory[]): void {
    for (const memory of memories) {
      const turn = this.turns.get(memory.tenant);
      if (turn) turn.queue.push(memory);
      else this.turns.set(memory.tenant, { queue: [memory], calling: false, unsettled: 0 });
    }
  }

  /** Tenants that must not be claimed now. */
  known(): string[] {
    for (const [tenant, turn] of this.turns) if (isOver(turn)) this.turns.delete(tenant);
    return [...this.turns.keys()];
  }

  /** How many tenants could be called now. */
  ready(): number {
    let ready = 0;
    for (const turn of this.turns.values()) if (isReady(turn)) ready += 1;
    return ready;
  }

  /** The next call: at most `most(tenant)` memories of one tenant and namespace. Undefined where nobody is ready. */
  next(most: (tenant: string) => number): PendingMemory[] | undefined {
    for (const [tenant, turn] of this.turns) {
      if (!isReady(turn)) continue;
      turn.calling = true;
      this.turns.delete(tenant);
      this.turns.set(tenant, turn);
      return leading(turn.queue, most(tenant));
    }
    return undefined;
  }

  /** What became of a call. Its answers are unsettled until `settled` says otherwise. */
  answered(batch: PendingMemory[], outcomes: MemoryOutcome[]): void {
    const turn = this.turns.get(batch[0]!.tenant)!;
    turn.calling = false;
    const final = outcomes.filter(({ kind }) => kind === 'stored' || kind === 'rejected').length;
    turn.unsettled += final;
    const kinds = new Set(outcomes.map(({ kind }) => kind));
    if (kinds.has('rejected') || kinds.has('busy')) {
      // Claimed anew when it may go on: Postgres or MemoryTroubles know what holds it back.
      turn.queue = [];
      return;
    }
    const left = batch.filter((_, index) => outcomes[index]?.kind !== 'stored');
    turn.queue = [...left, ...turn.queue.slice(batch.length)];
  }

  /** So many final answers of the tenant are written down. */
  settled(tenant: string, answers: number): void {
    const turn = this.turns.get(tenant);
    if (turn) turn.unsettled -= answers;
  }
}

const isReady = ({ queue, calling }: Turn): boolean => !calling && queue.length > 0;

const isOver = ({ queue, calling, unsettled }: Turn): boolean =>
  queue.length === 0 && !calling && unsettled === 0;

/** The head of the queue as far as it fits into one call; always the first. */
function leading(queue: PendingMemory[], most: number): PendingMemory[] {
  const { namespace } = queue[0]!;
  let bytes = 0;
  let length = 0;
  for (const memory of queue) {
    bytes += memory.bytes;
    const fits = memory.namespace === namespace && bytes <= MAX_CALL_BYTES && memory.payload !== null;
    if (length > 0 && (length >= most || !fits)) break;
    length += 1;
    // What is too large to be sent is nobody's company.
    if (memory.payload === null) break;
  }
  return queue.slice(0, length);
}
