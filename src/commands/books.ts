import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { type JournalEntry, readJournal } from '../database/outboxRepair.ts';
import { decideTakeover, type Mark, type TakeoverDecision } from '../domain/outboxTakeover.ts';
import { readMark } from '../kafka/outboxMarks.ts';
import type { CommandContext } from './command.ts';

/** What both sides know of a shard. */
export interface Books {
  journal: JournalEntry;
  mark: Mark | undefined;
  /** What a relay would do that took over now. */
  decision: TakeoverDecision;
  /** The journal changed while it was looked at: a relay works, and a contradiction would be one of the looking. */
  moving: boolean;
}

const LOOKS = 6;
const PAUSE_MS = 300;

/**
 * Looks at a shard's books and fences nobody. The two readings do not belong to one moment, and Kafka shows an offset a
 * little after its commit: a contradiction counts only if it stays.
 * @throws OrchestratorError unknown_shard, kafka_unavailable
 */
export async function readBooks(context: CommandContext, shard: number): Promise<Books> {
  const { client, admin, deployment } = context;
  for (let looks = 1; ; looks += 1) {
    const before = await readJournal(client, shard);
    const mark = await readMark(admin, deployment.id, shard);
    const journal = await readJournal(client, shard);
    const decision = decideTakeover(journal, mark);
    const moving = !isDeepStrictEqual(before, journal);
    if (decision.kind !== 'stop' || looks === LOOKS) return { journal, mark, decision, moving };
    await delay(PAUSE_MS);
  }
}

/** Why the shard's next takeover would stop; undefined where the books agree. */
export const contradiction = ({ decision, moving }: Books): string | undefined =>
  decision.kind === 'stop' && !moving ? decision.reason : undefined;
