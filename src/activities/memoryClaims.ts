import type { MemoryBook, TenantCursor } from '../database/memoryBook.ts';
import { MAX_CALLS, type PendingMemory } from '../domain/memories.ts';
import type { MemoryTroubles } from '../domain/memoryTroubles.ts';
import type { MemoryTurns } from '../domain/memoryTurns.ts';

/** A queue that ran dry is polled this often at first, then ever more rarely in case nobody wakes the sync. */
const MIN_POLL_MS = 5;
const MAX_POLL_MS = 1_000;
/** From here on the sync asks to be woken. */
const DRY_POLL_MS = 100;
/** While calls are under way, tenants that are new are found within this time. */
const BUSY_POLL_MS = 100;
/** Fewer tenants than this to choose from, and the next are claimed. */
const FEW_TENANTS = 2 * MAX_CALLS;

/**
 * When the sync asks Postgres for memories, and where in the ring of tenants it goes on.
 *
 *              nothing found                      dry for DRY_POLL_MS
 *   claiming ────────────────▶ polling, 5 ms … 1 s ────────────────▶ waiting: writers notify
 *      ▲                              │                                 │
 *      └──────── memories found ──────┴─────────────────────────────────┘
 */
export class MemoryClaims {
  private readonly book: MemoryBook;
  private readonly turns: MemoryTurns;
  private readonly troubles: MemoryTroubles;
  private cursor: TenantCursor = null;
  private knownTenants = 0;
  private poll = MIN_POLL_MS;
  private claimAt = 0;
  private isWaiting = false;

  constructor(book: MemoryBook, turns: MemoryTurns, troubles: MemoryTroubles) {
    this.book = book;
    this.turns = turns;
    this.troubles = troubles;
  }

  /** Whether writers have been told to notify. */
  get waiting(): boolean {
    return this.isWaiting;
  }

  /** Looks for memories when there are few tenants to choose from, and not before it is worth asking again. */
  async claim(busy: boolean): Promise<void> {
    const now = Date.now();
    const known = this.known(now);
    // A tenant that is done may have more.
    if (known.length < this.knownTenants) this.claimAt = 0;
    this.knownTenants = known.length;
    if (now < this.claimAt || this.hasEnough()) return;
    const found = await this.claimInRing(known);
    this.turns.add(found);
    this.knownTenants = this.known(now).length;
    if (found.length > 0) {
      this.poll = MIN_POLL_MS;
      this.claimAt = 0;
      await this.setWaiting(false);
    } else {
      this.poll = Math.min(busy ? BUSY_POLL_MS : MAX_POLL_MS, this.poll * 2);
      this.claimAt = Date.now() + this.poll;
      if (!busy) await this.askToBeWoken();
    }
  }

  /** Until the next claim. With enough to choose from, only an answer is news; the bound is for tenants that become ready by time. */
  restMs(now: number): number {
    return this.hasEnough() ? MAX_POLL_MS : Math.max(1, this.claimAt - now);
  }

  /** After a rest that a writer may have ended. */
  rested(): void {
    if (this.isWaiting) this.claimAt = 0;
  }

  private hasEnough(): boolean {
    return this.turns.ready() >= FEW_TENANTS;
  }

  /** Tenants that must not be claimed now. */
  private known(now: number): string[] {
    return [...this.turns.known(), ...this.troubles.waiting(now)];
  }

  private async claimInRing(without: string[]): Promise<PendingMemory[]> {
    const fromHere = await this.book.claim(this.cursor, without);
    const { memories, cursor } =
      fromHere.memories.length === 0 && this.cursor !== null
        ? await this.book.claim(null, without)
        : fromHere;
    this.cursor = cursor;
    return memories;
  }

  /** A queue that stays dry: writers notify from here on, and what came before they knew is found by a claim at once. */
  private async askToBeWoken(): Promise<void> {
    if (this.isWaiting || this.poll < DRY_POLL_MS) return;
    await this.setWaiting(true);
    this.claimAt = 0;
  }

  private async setWaiting(waiting: boolean): Promise<void> {
    if (waiting === this.isWaiting) return;
    await this.book.setWaiting(waiting);
    this.isWaiting = waiting;
  }
}
