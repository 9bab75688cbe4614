import { randomUUID } from 'node:crypto';
import { describeError } from '../domain/errors.ts';
import type { MemoryOutcome, MemoryStore, OutgoingMemory } from '../domain/memories.ts';
import { Address, type Answer } from './http.ts';
import { idempotencyHeader, type Shape, shapes } from './shapes.ts';
import { isMissing, verdictOn } from './verdict.ts';

export interface SomaBrainOptions {
  /** http or https; a user and a password in it become basic authentication. */
  url: string;
  /** Sent as bearer token. */
  token?: string | undefined;
}

const UNSENT: MemoryOutcome = { kind: 'unsent' };

/**
 * SomaBrain over HTTP. Which of the three shapes of its API a server has is found out by calls themselves: the preferred
 * one comes first, and where it is not there (404, 405) the next. The one that works is remembered until it is not there
 * any more.
 *
 * One call is under way for each `remember`. Nothing is thrown: whatever SomaBrain does is an outcome of each memory.
 */
export class SomaBrain implements MemoryStore {
  private readonly address: Address;
  private known: Shape | undefined;

  /** @throws OrchestratorError invalid_input, unless the URL is http or https */
  constructor({ url, token }: SomaBrainOptions) {
    this.address = new Address(url, token);
  }

  /** Where the server has no batches, or refuses one as a whole, memories go one by one until one is not stored. */
  async remember(memories: OutgoingMemory[], signal?: AbortSignal): Promise<MemoryOutcome[]> {
    if (memories.length > 1 && (this.known ?? shapes[0]!).isBatch) {
      const outcomes = await this.send(memories, signal);
      if (outcomes) return outcomes;
    }
    return this.singly(memories, signal);
  }

  private async singly(memories: OutgoingMemory[], signal?: AbortSignal): Promise<MemoryOutcome[]> {
    const outcomes: MemoryOutcome[] = [];
    for (const memory of memories) {
      const isHeldUp = outcomes.length > 0 && outcomes.at(-1)!.kind !== 'stored';
      const [outcome] = isHeldUp ? [UNSENT] : ((await this.send([memory], signal)) ?? []);
      outcomes.push(outcome!);
    }
    return outcomes;
  }

  /** One call. Undefined where it says nothing of the single memories: they have to be sent one by one. */
  private async send(memories: OutgoingMemory[], signal?: AbortSignal): Promise<MemoryOutcome[] | undefined> {
    try {
      const { answer, shape } = await this.ask(memories, signal);
      if (!answer) return undefined;
      if (answer.status >= 500) this.known = undefined;
      return judged(memories, answer, shape);
    } catch (error) {
      this.known = undefined;
      const reason = `no usable answer from SomaBrain: ${describeError(error)}`;
      return memories.map(() => ({ kind: 'away', reason }));
    }
  }

  /** Asks by the shape that is known to work, then by the others. */
  private async ask(memories: OutgoingMemory[], signal?: AbortSignal) {
    const known = this.known;
    const candidates = known ? [known, ...shapes.filter((shape) => shape !== known)] : shapes;
    let answer: Answer | undefined;
    let shape = candidates[0]!;
    for (shape of candidates) {
      if (memories.length > 1 && !shape.isBatch) return { answer: undefined, shape };
      answer = await this.address.post(
        {
          path: shape.path,
          headers: { 'x-idempotency-key': idempotencyHeader(memories), 'x-request-id': randomUUID() },
          body: shape.body(memories),
        },
        signal,
      );
      if (isMissing(answer)) continue;
      this.known = shape;
      return { answer, shape };
    }
    return { answer, shape };
  }
}

/** Undefined: a batch was refused for something that one of its memories may be at fault for. */
function judged(memories: OutgoingMemory[], answer: Answer, shape: Shape): MemoryOutcome[] | undefined {
  const { status, body } = answer;
  if (status >= 200 && status < 300) {
    if (body) return shape.outcomes(memories, body);
    return memories.map(() => ({
      kind: 'away',
      reason: `SomaBrain answers ${status} without a JSON object`,
    }));
  }
  const outcome = verdictOn(answer);
  const isAboutOne = outcome.kind === 'rejected' || outcome.kind === 'stored';
  if (isAboutOne && memories.length > 1) return undefined;
  return memories.map(() => outcome);
}
