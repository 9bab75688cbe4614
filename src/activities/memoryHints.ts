import type pg from 'pg';
import { readGate } from '../database/healthGates.ts';
import type { MemoryBook } from '../database/memoryBook.ts';
import type { MemoryRamp } from '../domain/memoryRamp.ts';

/** How often it is asked, while SomaBrain is away, whether there is a reason to try sooner. */
export const HINTS_MS = 1_000;

/**
 * What others know of SomaBrain. While the health cycle's gate is open the next call is a probe; when it closes, or when
 * a person asks for it (syncNow), the probe is made at once. Hints only: where they cannot be had, nothing is missing.
 */
export class MemoryHints {
  private readonly client: pg.ClientBase;
  private readonly book: MemoryBook;
  private dueAt = 0;
  private gateWasOpen = false;
  /** Undefined: never looked at. */
  private hurried: string | null | undefined;

  constructor(client: pg.ClientBase, book: MemoryBook) {
    this.client = client;
    this.book = book;
  }

  /** At the beginning, and once a second while SomaBrain is away. */
  async listen(ramp: MemoryRamp): Promise<void> {
    const now = Date.now();
    const isFirst = this.hurried === undefined;
    if (now < this.dueAt || !(isFirst || ramp.isAway)) return;
    this.dueAt = now + HINTS_MS;
    const { open } = await readGate(this.client, 'somabrain').catch(() => ({ open: false }));
    const hurried = await this.book.hurriedAt();
    if (open) ramp.beGentle();
    if ((this.gateWasOpen && !open) || (!isFirst && hurried !== this.hurried)) ramp.hurry();
    this.gateWasOpen = open;
    this.hurried = hurried;
  }
}
