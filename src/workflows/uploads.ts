import {
  ActivityCancellationType,
  ActivityFailure,
  type ActivityOptions,
  ApplicationFailure,
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  isCancellation,
  proxyActivities,
  proxyLocalActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { UploadBytesActivities } from '../activities/uploadBytes.ts';
import type { BegunUpload, UploadActivities } from '../activities/uploads.ts';
import { readUploadInput, type UploadRetryInput, type UploadStart } from '../domain/uploadInput.ts';
import {
  MAX_UPLOAD_ATTEMPTS,
  secondsAfterRefusal,
  secondsToNextPromotion,
  secondsToNextTry,
  type UploadReceipt,
  type UploadState,
  type UploadStatus,
} from '../domain/uploads.ts';
import type { StoredOutcome } from '../domain/uploadTries.ts';

export const uploadStatusQuery = defineQuery<UploadStatus>('status');
export const retryUploadSignal = defineSignal('retryNow');

/**
 * Sees one file to its end: stored in the best tier that works, brought to the best one when that works again, or a dead
 * letter. The row in orchestrator.upload owns the file and says what became of it; this workflow is where the waiting is
 * seen and steered. No byte of the file comes here. Returns the receipt.
 */
export async function uploadRetry(input: UploadRetryInput): Promise<UploadReceipt> {
  const start = readUploadInput(input, workflowInfo().workflowId);
  if ('faults' in start) throw ApplicationFailure.nonRetryable(start.faults.join('; '), 'invalid_input');
  const upload = new Upload(start);
  setHandler(uploadStatusQuery, () => upload.status, {
    description: 'whether it is stored, where, how safe it is there, and what went wrong last',
  });
  setHandler(retryUploadSignal, () => upload.hurry(), {
    description: 'tries every tier now, instead of at the end of the wait',
  });
  try {
    return await upload.run();
  } catch (error) {
    if (isCancellation(error)) await CancellationScope.nonCancellable(() => upload.cancelled());
    throw error;
  }
}

const { acceptUpload, failUpload, cancelUpload } = proxyActivities<UploadActivities>({
  startToCloseTimeout: '30 seconds',
  // An outage of Postgres lasts as long as it lasts.
  retry: { initialInterval: '1 second', maximumInterval: '10 seconds' },
});

/**
 * Done by the worker that has the workflow task, within that: where all is well, one task is all that an upload costs
 * Temporal. What does not succeed here is done as if it had not been tried.
 */
const { beginUpload } = proxyLocalActivities<UploadActivities>({
  startToCloseTimeout: '15 seconds',
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  retry: { maximumAttempts: 1 },
});

/** Those that carry the file's bytes. */
const carrying = (
  taskQueue: string,
  summary: string,
  patience: Pick<ActivityOptions, 'retry' | 'scheduleToCloseTimeout'> = {},
) =>
  proxyActivities<UploadBytesActivities>({
    taskQueue,
    // Large files take their time; a worker that dies is noticed by its heartbeats.
    startToCloseTimeout: '1 day',
    heartbeatTimeout: '20 seconds',
    // Only what it has done says whether the file is stored: a cancellation waits for it.
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { initialInterval: '1 second', maximumInterval: '10 seconds' },
    summary,
    ...patience,
  });

class Upload {
  status: UploadStatus = { state: 'waiting', attempts: 0, last_error: null, receipt: null };
  private readonly start: UploadStart;
  private filename = '';
  private bytesTaskQueue = '';
  private rounds: number;
  private waits = 0;
  private hurried = false;

  constructor(start: UploadStart) {
    this.start = start;
    this.rounds = start.progress.rounds;
  }

  /** Ends in the best tier that is configured, or throws. */
  async run(): Promise<UploadReceipt> {
    const { accepted, stored } = await this.begin();
    let outcome: StoredOutcome;
    if (stored) outcome = stored;
    else if (accepted.receipt) {
      outcome = { kind: 'stored', ...accepted, receipt: accepted.receipt };
      // Asked for once more: the first receipt is the answer, if it still holds.
      if (outcome.better.length === 0) await this.verify();
    } else {
      outcome = await this.store();
      this.rounds = 0;
    }
    this.accepts(outcome);
    await this.tidy(outcome);
    while (outcome.better.length > 0) {
      outcome = await this.promote(outcome);
      this.accepts(outcome);
      await this.tidy(outcome);
    }
    return outcome.receipt;
  }

  hurry(): void {
    this.hurried = true;
  }

  private async begin(): Promise<BegunUpload> {
    const { key, request, progress } = this.start;
    try {
      const begun = await beginUpload(key, request).catch(async (error: unknown) => {
        if (isCancellation(error)) throw error;
        return { accepted: await acceptUpload(key, request), stored: null };
      });
      const { filename, bytesTaskQueue, attempts, receipt, lastError } = begun.accepted;
      this.filename = filename;
      this.bytesTaskQueue = bytesTaskQueue;
      const last_error = receipt ? progress.lastError : (progress.lastError ?? lastError);
      this.become('waiting', { attempts, receipt, last_error });
      return begun;
    } catch (error) {
      // Nobody became the owner of anything.
      const { code, reason } = refusalIn(error);
      this.become('failed', { last_error: `${code}: ${reason}` });
      throw ApplicationFailure.nonRetryable(reason, code);
    }
  }

  /** Round after round, until a tier has it; five times a definite no of all tiers, or of the source, give it up. */
  private async store(): Promise<StoredOutcome> {
    while (true) {
      this.become('trying');
      const attempt = this.status.attempts + 1;
      const round = { key: this.start.key, everyTier: this.takeHurry(), attempt };
      const outcome = await carrying(this.bytesTaskQueue, `stores ${this.filename}`)
        .storeUpload(round)
        .catch((error: unknown) => this.giveUp(refusalIn(error)));
      if (outcome.kind === 'stored') return outcome;
      const attempts = outcome.kind === 'refused' ? attempt : attempt - 1;
      this.become('waiting', { attempts, last_error: outcome.error });
      if (attempts >= MAX_UPLOAD_ATTEMPTS)
        await this.giveUp({ code: 'storage_refused', reason: outcome.error });
      this.rounds += 1;
      const isRefused = outcome.kind === 'refused';
      const seconds = isRefused ? secondsAfterRefusal(attempts) : secondsToNextTry(this.rounds);
      await this.wait(seconds, 'until the next try');
      await this.leaveIfLong();
    }
  }

  /** Looks at the better tiers now and then, until one has it. */
  private async promote({ receipt }: StoredOutcome): Promise<StoredOutcome> {
    while (true) {
      this.become('promoting');
      await this.leaveIfLong();
      await this.wait(secondsToNextPromotion(this.rounds), `on ${receipt.tier}, until the next look above`);
      this.rounds += 1;
      const round = { key: this.start.key, everyTier: this.takeHurry() };
      const outcome = await carrying(
        this.bytesTaskQueue,
        `brings ${this.filename} to a better tier`,
      ).promoteUpload(round);
      if (outcome.kind === 'stored') {
        this.rounds = 0;
        return outcome;
      }
      this.become('promoting', { last_error: outcome.error });
    }
  }

  private accepts({ receipt, better }: StoredOutcome): void {
    const state = receipt.promoted_at === null ? 'stored' : 'promoted';
    const { attempts } = receipt;
    this.become(better.length > 0 ? 'promoting' : state, { attempts, receipt, last_error: null });
  }

  private async tidy({ leftovers }: StoredOutcome): Promise<void> {
    if (leftovers.length === 0) return;
    // What cannot be removed in this time is left to the janitor.
    const { clearLeftovers } = carrying(this.bytesTaskQueue, 'removes the copies below', {
      scheduleToCloseTimeout: '10 minutes',
    });
    await clearLeftovers(this.start.key).catch((error: unknown) => this.tolerate(error));
  }

  private async verify(): Promise<void> {
    const { verifyUpload } = carrying(this.bytesTaskQueue, 'looks whether it is still there', {
      retry: { maximumAttempts: 3 },
    });
    await verifyUpload(this.start.key).catch((error: unknown) => {
      const { code, reason } = refusalIn(error);
      // What else keeps it from being looked at (a tier that is away, a missing right) takes nothing back of what was said.
      if (code !== 'upload_corrupt' && code !== 'upload_refused') return;
      this.become('failed', { last_error: `${code}: ${reason}` });
      throw ApplicationFailure.nonRetryable(reason, code);
    });
  }

  /** The copy is safe, whatever else did not work. */
  private tolerate(error: unknown): void {
    if (!(error instanceof ActivityFailure) || isCancellation(error)) throw error;
    const { code, reason } = refusalIn(error);
    this.become(this.status.state, { last_error: `${code}: ${reason}` });
  }

  private async giveUp({ code, reason }: Refusal): Promise<never> {
    await failUpload(this.start.key, { code, reason });
    this.become('failed', { last_error: `${code}: ${reason}` });
    throw ApplicationFailure.nonRetryable(reason, code);
  }

  async cancelled(): Promise<void> {
    const receipt = await cancelUpload(this.start.key);
    if (receipt) this.become(receipt.promoted_at === null ? 'stored' : 'promoted', { receipt });
    else this.become('failed', { last_error: 'cancelled before it was stored; its bytes are kept' });
  }

  /** Ends when the time is over, or a person is in a hurry. */
  private async wait(seconds: number, summary: string): Promise<void> {
    this.waits += 1;
    await condition(() => this.hurried, `${seconds} seconds`, { summary });
  }

  /** After many waits a new run goes on, with a short history. */
  private async leaveIfLong(): Promise<void> {
    const { key, waitLimit } = this.start;
    const isLong = this.waits >= waitLimit || workflowInfo().continueAsNewSuggested;
    // The new run would not know that somebody is in a hurry.
    if (!isLong || this.hurried) return;
    const progress = { rounds: this.rounds, lastError: this.status.last_error };
    await continueAsNew<typeof uploadRetry>({ idempotency_key: key, progress, waitLimit });
  }

  private takeHurry(): boolean {
    const { hurried } = this;
    this.hurried = false;
    return hurried;
  }

  private become(state: UploadState, news: Partial<UploadStatus> = {}): void {
    this.status = { ...this.status, ...news, state };
    const { attempts, last_error, receipt } = this.status;
    const place = receipt ? ` · ${receipt.location} (${receipt.durability})` : '';
    const error = last_error ? `\n\n${last_error}` : '';
    setCurrentDetails(`**${state}** · ${this.filename} · ${attempts} attempts${place}${error}`);
  }
}

interface Refusal {
  code: string;
  reason: string;
}

/** What an activity said at last; what is no failure of its own (a cancellation) is thrown. */
function refusalIn(error: unknown): Refusal {
  if (!(error instanceof ActivityFailure) || isCancellation(error)) throw error;
  const { cause } = error;
  if (cause instanceof ApplicationFailure) return { code: cause.type ?? 'unexpected', reason: cause.message };
  return { code: 'unexpected', reason: cause?.message ?? error.message };
}
