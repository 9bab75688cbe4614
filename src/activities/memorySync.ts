import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import type { Logger } from 'pino';
import { MemoryBook, type RejectedMemory } from '../database/memoryBook.ts';
import type { OutboxWakeUps } from '../database/outboxWakeUps.ts';
import { connect, disconnect, fromPostgres } from '../database/postgres.ts';
import {
  MAX_MEMORY_BYTES,
  type MemoryOutcome,
  type MemoryStore,
  type MemorySyncReport,
  type OutgoingMemory,
  type PendingMemory,
} from '../domain/memories.ts';
import { MemoryRamp, type RampTicket } from '../domain/memoryRamp.ts';
import { MemoryTroubles } from '../domain/memoryTroubles.ts';
import { MemoryTurns } from '../domain/memoryTurns.ts';
import { MemoryClaims } from './memoryClaims.ts';
import { HINTS_MS, MemoryHints } from './memoryHints.ts';

/** What the sync needs of the world. */
export interface MemorySyncDependencies {
  databaseUrl: string;
  store: MemoryStore;
  /** For the channel MEMORY_CHANNEL. */
  wakeUps: OutboxWakeUps;
  /** Who has the sync, for people who look at its book. */
  owner: string;
  logger: Logger;
}

/** What a worker has learnt of SomaBrain. It outlives a run, so that an outage is not probed anew each minute. */
export class SomaBrainInsight {
  readonly ramp = new MemoryRamp();
  readonly troubles = new MemoryTroubles();
  /** Of the outage; null without one. */
  lastError: string | null = null;
}

export interface MemorySyncRun {
  insight: SomaBrainInsight;
  /** Aborted when the run is over: no call begins any more, and those under way get a moment to end. */
  stop: AbortSignal;
  onState(state: MemorySyncReport['state'], lastError: string | null): void;
  /** Memories whose storing is written down. */
  onSynced(memories: number): void;
  /** Memories that were rejected, and how many of them had no attempt left and are dead letters now. */
  onRejected(memories: number, dead: number): void;
}

/** What calls under way get at the end of a run. One that is cut off is repeated under its key. */
const FAREWELL_MS = 3_000;

interface Answered {
  batch: PendingMemory[];
  outcomes: MemoryOutcome[];
}

/**
 * Brings queued memories to SomaBrain until `stop`.
 *
 *   take over ─▶ settle what was answered ─▶ claim, if few tenants are left ─▶ call, as far as the ramp allows ─▶ rest
 *                          ▲                                                                                       │
 *                          └────────────── an answer, new rows, a time that has come, the end ◀───────────────────┘
 *
 * Calls go on while Postgres is asked. A memory whose answer was not written down is sent again under its key by the next
 * run, so that it is stored once.
 * @throws OrchestratorError postgres_unavailable, relay_fenced
 */
export async function syncMemoriesUntil(
  dependencies: MemorySyncDependencies,
  run: MemorySyncRun,
): Promise<void> {
  let client: pg.Client | undefined;
  try {
    client = await connect(dependencies.databaseUrl);
    const book = await MemoryBook.takeOver(client, dependencies.owner);
    await new MemorySync(client, book, dependencies, run).run();
  } catch (error) {
    throw fromPostgres(error);
  } finally {
    if (client) await disconnect(client);
  }
}

class MemorySync {
  private readonly book: MemoryBook;
  private readonly dependencies: MemorySyncDependencies;
  private readonly conduct: MemorySyncRun;
  private readonly turns = new MemoryTurns();
  private readonly ramp: MemoryRamp;
  private readonly troubles: MemoryTroubles;
  private readonly hints: MemoryHints;
  private readonly claims: MemoryClaims;
  private readonly calls = new Set<Promise<void>>();
  private readonly cut = new AbortController();
  private answers: Answered[] = [];
  /** Aborted by whatever ends a rest. */
  private news = new AbortController();

  constructor(
    client: pg.ClientBase,
    book: MemoryBook,
    dependencies: MemorySyncDependencies,
    run: MemorySyncRun,
  ) {
    this.book = book;
    this.hints = new MemoryHints(client, book);
    this.dependencies = dependencies;
    this.conduct = run;
    ({ ramp: this.ramp, troubles: this.troubles } = run.insight);
    this.claims = new MemoryClaims(book, this.turns, this.troubles);
    this.ramp.beGentle();
  }

  async run(): Promise<void> {
    const { stop } = this.conduct;
    try {
      while (!stop.aborted) {
        await this.settle();
        await this.hints.listen(this.ramp);
        if (this.ramp.pauseMs(Date.now()) === 0) await this.claims.claim(this.calls.size > 0);
        this.call();
        this.tell();
        await this.rest();
      }
      await this.finishCalls();
      await this.settle();
    } finally {
      this.cut.abort();
      await Promise.all(this.calls);
    }
  }

  /** Writes down what became of memories; only then their tenants can be claimed again. */
  private async settle(): Promise<void> {
    const answers = this.answers;
    if (answers.length === 0) return;
    this.answers = [];
    const stored: string[] = [];
    const rejected: RejectedMemory[] = [];
    for (const { batch, outcomes } of answers) {
      for (const [index, { id }] of batch.entries()) {
        const outcome = outcomes[index]!;
        if (outcome.kind === 'stored') stored.push(id);
        if (outcome.kind === 'rejected') rejected.push({ id, reason: outcome.reason });
      }
    }
    await this.book.synced(stored);
    if (stored.length > 0) this.conduct.onSynced(stored.length);
    if (rejected.length > 0) await this.reject(rejected);
    for (const { batch, outcomes } of answers) {
      const final = outcomes.filter(({ kind }) => kind === 'stored' || kind === 'rejected');
      this.turns.settled(batch[0]!.tenant, final.length);
    }
  }

  private async reject(rejected: RejectedMemory[]): Promise<void> {
    const dead = await this.book.rejected(rejected);
    this.conduct.onRejected(rejected.length, dead);
    // SomaBrain's words may show the memory, so they stay in the row.
    const example = rejected[0]!.id;
    this.dependencies.logger.warn({ memories: rejected.length, dead, example }, 'memories rejected');
  }

  /** Begins as many calls as the ramp allows. */
  private call(): void {
    const isOver = () => this.conduct.stop.aborted || this.cut.signal.aborted;
    while (!isOver() && this.calls.size < this.ramp.calls) {
      const most = (tenant: string) => Math.min(this.ramp.size, this.troubles.size(tenant));
      const batch = this.ramp.pauseMs(Date.now()) > 0 ? undefined : this.turns.next(most);
      if (!batch) return;
      const call = this.remember(batch, this.ramp.begin());
      this.calls.add(call);
      void call.then(() => this.calls.delete(call)).then(() => this.call());
    }
  }

  private async remember(batch: PendingMemory[], ticket: RampTicket): Promise<void> {
    const outcomes = isSendable(batch) ? await this.ask(batch, ticket) : [tooLarge(batch[0]!)];
    this.turns.answered(batch, outcomes);
    this.answers.push({ batch, outcomes });
    this.news.abort();
  }

  private async ask(batch: OutgoingMemory[], ticket: RampTicket): Promise<MemoryOutcome[]> {
    const outcomes = await this.dependencies.store.remember(batch, this.cut.signal);
    if (this.cut.signal.aborted) return outcomes;
    const { tenant } = batch[0]!;
    const at = outcomes.findIndex(({ kind }) => kind === 'away' || kind === 'busy');
    const problem = outcomes[at];
    if (problem?.kind !== 'away') {
      this.answered(batch, outcomes, ticket);
      if (problem?.kind === 'busy') this.hold(batch[at]!, problem);
    } else if (this.troubles.failed(tenant, Date.now())) {
      this.hold(batch[at]!, problem);
      return outcomes.map((outcome) =>
        outcome.kind === 'away' ? { kind: 'busy', reason: outcome.reason } : outcome,
      );
    } else this.away(problem, ticket);
    return outcomes;
  }

  private answered([first]: OutgoingMemory[], outcomes: MemoryOutcome[], ticket: RampTicket): void {
    this.ramp.answered(ticket);
    if (!this.ramp.isAway) this.conduct.insight.lastError = null;
    const isStored = outcomes.some(({ kind }) => kind === 'stored');
    this.troubles.answered(first!.tenant, isStored);
  }

  /** The tenant waits, the others go on. Without a word, its memory would hold it back in silence. */
  private hold({ tenant, key }: OutgoingMemory, { reason, retryAfterMs }: Held): void {
    this.dependencies.logger.warn({ key, reason }, 'SomaBrain takes nothing of a tenant: it waits');
    this.troubles.wait(tenant, reason, Date.now(), retryAfterMs);
  }

  private away({ reason, retryAfterMs }: Held, ticket: RampTicket): void {
    if (!this.ramp.isAway) this.dependencies.logger.warn({ reason }, 'SomaBrain is away');
    this.ramp.away(ticket, Date.now(), retryAfterMs);
    this.conduct.insight.lastError = reason;
  }

  private tell(): void {
    const isAtWork = this.calls.size > 0 || this.turns.ready() > 0;
    // An outage during which the last memory was taken away is told no longer than its pause.
    const isWaiting = this.ramp.isAway && (isAtWork || this.ramp.pauseMs(Date.now()) > 0);
    const lastError = isWaiting ? this.conduct.insight.lastError : this.troubles.reason;
    this.conduct.onState(isWaiting ? 'waiting' : isAtWork ? 'syncing' : 'idle', lastError);
  }

  /** Until there is something to do. */
  private async rest(): Promise<void> {
    if (this.answers.length > 0) return;
    this.news = new AbortController();
    const signal = AbortSignal.any([this.news.signal, this.conduct.stop]);
    const now = Date.now();
    const pause = this.ramp.pauseMs(now);
    const ms = pause > 0 ? Math.min(pause, HINTS_MS) : this.claims.restMs(now);
    if (this.claims.waiting && this.calls.size === 0) await this.dependencies.wakeUps.wait(ms, signal);
    else await delay(ms, undefined, { signal }).catch(() => {});
    this.claims.rested();
  }

  private async finishCalls(): Promise<void> {
    const farewell = new AbortController();
    const limit = delay(FAREWELL_MS, undefined, { signal: farewell.signal }).catch(() => {});
    await Promise.race([Promise.all(this.calls), limit]);
    farewell.abort();
    this.cut.abort();
    await Promise.all(this.calls);
  }
}

interface Held {
  reason: string;
  retryAfterMs?: number;
}

const isSendable = (batch: PendingMemory[]): batch is (PendingMemory & OutgoingMemory)[] =>
  batch.every(({ payload }) => payload !== null);

const tooLarge = ({ bytes }: PendingMemory): MemoryOutcome => ({
  kind: 'rejected',
  reason: `the payload has ${bytes} bytes: at most ${MAX_MEMORY_BYTES} are sent`,
});
