import { heartbeat, metricMeter, sleep } from '@temporalio/activity';
import type pg from 'pg';
import {
  previewLetters,
  putBack,
  type ReplayOutcome,
  type Resolution,
  resolveLetters,
  settleReplays,
} from '../database/deadLetterReplay.ts';
import { withClient } from '../database/postgres.ts';
import type { LetterPreview, LetterSelection, PutBack, Replay, ReplayCursor } from '../domain/deadLetters.ts';
import { onPostgres, unlessAway, workerStops } from './failure.ts';

export const countDeadLetters = (letters: number): void =>
  metricMeter.createCounter('dlq_messages', undefined, 'rows that became dead letters').add(letters);

const MIN_POLL_MS = 100;
const MAX_POLL_MS = 2_000;

export interface DeadLetterDependencies {
  pool: pg.Pool;
  /** Aborted when the worker stops: another one goes on waiting. */
  stop: AbortSignal;
}

export function createDeadLetterActivities({ pool, stop }: DeadLetterDependencies) {
  return {
    /** What a replay of this selection would put back. */
    previewLetters: (selection: LetterSelection, limit?: number): Promise<LetterPreview> =>
      onPostgres(() => previewLetters(pool, selection, limit)),

    /** Resolves letters without sending them; returns how many. */
    resolveLetters: (selection: LetterSelection, resolution: Resolution, limit: number): Promise<number> =>
      onPostgres(() => resolveLetters(pool, selection, { ...resolution, limit })),

    /** Puts the next letters back into the outbox. Repeated after a crash it finds those on their way and sends none twice. */
    putBackLetters: (
      selection: LetterSelection,
      after: ReplayCursor | null,
      limit: number,
    ): Promise<PutBack> =>
      onPostgres(() => withClient(pool, (client) => putBack(client, selection, { after, limit }))),

    /** Waits until each message is delivered or dead, through any outage, and resolves the letters of those delivered. */
    async awaitReplays(replays: Replay[], resolution: Resolution): Promise<ReplayOutcome> {
      for (let pause = MIN_POLL_MS; !stop.aborted; pause = Math.min(MAX_POLL_MS, pause * 1.5)) {
        const outcome = await unlessAway(() => settleReplays(pool, replays, resolution));
        if (outcome?.open === 0) return outcome;
        heartbeat(outcome);
        await sleep(pause);
      }
      throw workerStops();
    },
  };
}

export type DeadLetterActivities = ReturnType<typeof createDeadLetterActivities>;
