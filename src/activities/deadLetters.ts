import { heartbeat, log, sleep } from '@temporalio/activity';
import type pg from 'pg';
import {
  previewLetters,
  putBack,
  type ReplayOutcome,
  type Resolution,
  resolveLetters,
  settleReplays,
} from '../database/deadLetterReplay.ts';
import { fromPostgres, withClient } from '../database/postgres.ts';
import type { LetterPreview, LetterSelection, Replay, ReplayCursor } from '../domain/deadLetters.ts';
import { describeError } from '../domain/errors.ts';
import { toFailure } from './failure.ts';

const MIN_POLL_MS = 100;
const MAX_POLL_MS = 2_000;

export function createDeadLetterActivities({ pool }: { pool: pg.Pool }) {
  return {
    /** What a replay of this selection would put back. */
    previewLetters: (selection: LetterSelection, limit?: number): Promise<LetterPreview> =>
      onPostgres(() => previewLetters(pool, selection, limit)),

    /** Resolves letters without sending them; returns how many. */
    resolveLetters: (selection: LetterSelection, resolution: Resolution, limit?: number): Promise<number> =>
      onPostgres(() => resolveLetters(pool, selection, { ...resolution, limit })),

    /** Puts the next letters back into the outbox. Repeated after a crash it finds those on their way and sends none twice. */
    putBackLetters: (
      selection: LetterSelection,
      after: ReplayCursor | null,
      limit: number,
    ): Promise<{ replays: Replay[]; cursor: ReplayCursor | null }> =>
      onPostgres(() => withClient(pool, (client) => putBack(client, selection, { after, limit }))),

    /** Waits until each message is delivered or dead, through any outage, and resolves the letters of those delivered. */
    async awaitReplays(replays: Replay[], resolution: Resolution): Promise<ReplayOutcome> {
      for (let pause = MIN_POLL_MS; ; pause = Math.min(MAX_POLL_MS, pause * 1.5)) {
        const outcome = await settleReplays(pool, replays, resolution).catch((error: unknown) => {
          log.debug('the replayed messages cannot be read', { error: describeError(error) });
          return undefined;
        });
        if (outcome?.open === 0) return outcome;
        heartbeat(outcome);
        await sleep(pause);
      }
    },
  };
}

export type DeadLetterActivities = ReturnType<typeof createDeadLetterActivities>;

async function onPostgres<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toFailure(fromPostgres(error));
  }
}
