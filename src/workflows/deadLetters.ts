import {
  ApplicationFailure,
  continueAsNew,
  defineQuery,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { DeadLetterActivities } from '../activities/deadLetters.ts';
import {
  type DeadLetterReplayInput,
  type DeadLetterReplayState,
  type DeadLetterReplayStatus,
  type LetterSelection,
  type ReplayProgress,
  replayInputFaults,
  replayStart,
} from '../domain/deadLetters.ts';

export const replayStatusQuery = defineQuery<DeadLetterReplayStatus>('status');

/** So many letters are under way at once; their ids go through the history. */
const PAGE = 100;
/** So many are resolved in one statement. */
const RESOLVE_PAGE = 5_000;

const { previewLetters, resolveLetters, putBackLetters } = proxyActivities<DeadLetterActivities>({
  startToCloseTimeout: '1 minute',
  retry: { initialInterval: '1 second', maximumInterval: '10 seconds' },
});
const { awaitReplays } = proxyActivities<DeadLetterActivities>({
  // As long as Kafka is away.
  startToCloseTimeout: '30 days',
  heartbeatTimeout: '30 seconds',
  retry: { initialInterval: '1 second', maximumInterval: '10 seconds' },
});

/**
 * Sends dead letters again: page by page, in the insertion order of the original messages, by the outbox and its
 * exactly-once path. A letter is resolved when its message is delivered, not before. Ended and started again, at any
 * point, it sends nothing twice.
 */
export async function deadLetterReplay(input: DeadLetterReplayInput = {}): Promise<DeadLetterReplayStatus> {
  const faults = replayInputFaults(input);
  if (faults.length > 0) throw ApplicationFailure.nonRetryable(faults.join('; '), 'invalid_input');
  const replay = new Replay(input);
  setHandler(replayStatusQuery, () => replay.status, {
    description: 'how many letters were put back, are resolved, were refused again',
  });
  try {
    if (input.dryRun) await replay.preview();
    else if (input.resolveOnly) await replay.resolve();
    else {
      while (await replay.page()) {
        if (workflowInfo().continueAsNewSuggested) {
          await continueAsNew<typeof deadLetterReplay>({ ...input, progress: replay.progress });
        }
      }
    }
    replay.become('done');
    return replay.status;
  } catch (error) {
    if (isCancellation(error)) replay.become('cancelled');
    throw error;
  }
}

class Replay {
  progress: ReplayProgress;
  status: DeadLetterReplayStatus;
  private readonly selection: LetterSelection;
  private readonly limit: number | undefined;
  private readonly resolution: { by: string; notes: string | null };

  constructor(input: DeadLetterReplayInput) {
    const { topic, ids, from, to, limit } = input;
    this.selection = { topic, ids, from, to };
    this.limit = limit;
    this.progress = input.progress ?? replayStart;
    this.resolution = {
      by: input.resolvedBy ?? workflowInfo().workflowId.slice(0, 255),
      notes: input.notes ?? null,
    };
    const { replayed, resolved, failed } = this.progress;
    this.status = {
      state: 'replaying',
      dry_run: input.dryRun ?? false,
      preview: null,
      replayed,
      resolved,
      failed,
    };
  }

  async preview(): Promise<void> {
    this.become('previewing');
    this.status = { ...this.status, preview: await previewLetters(this.selection, this.limit) };
  }

  async resolve(): Promise<void> {
    this.become('resolving');
    for (let more = true; more; ) {
      const { resolved } = this.status;
      const limit = Math.min(RESOLVE_PAGE, (this.limit ?? Number.POSITIVE_INFINITY) - resolved);
      const done = limit > 0 ? await resolveLetters(this.selection, this.resolution, limit) : 0;
      this.status = { ...this.status, resolved: resolved + done };
      more = done === limit && limit > 0;
    }
  }

  /** The next letters, until each is delivered or dead; false when there are no more. */
  async page(): Promise<boolean> {
    const { cursor, replayed, resolved, failed } = this.progress;
    const limit = Math.min(PAGE, (this.limit ?? Number.POSITIVE_INFINITY) - replayed);
    if (limit <= 0) return false;
    const put = await putBackLetters(this.selection, cursor, limit);
    // Histories from before there were refusals know of none.
    const refused = put.refused ?? 0;
    if (put.replays.length + refused === 0) return false;
    this.status = { ...this.status, replayed: replayed + put.replays.length };
    this.become('replaying');
    const outcome = await awaitReplays(put.replays, this.resolution);
    this.progress = {
      cursor: put.cursor,
      replayed: replayed + put.replays.length,
      resolved: resolved + outcome.resolved,
      failed: failed + refused + outcome.failed,
    };
    this.status = { ...this.status, resolved: this.progress.resolved, failed: this.progress.failed };
    return put.replays.length + refused === limit;
  }

  become(state: DeadLetterReplayState): void {
    const { replayed, resolved, failed } = this.status;
    this.status = { ...this.status, state };
    setCurrentDetails(`**${state}** · ${replayed} put back · ${resolved} resolved · ${failed} refused again`);
  }
}
