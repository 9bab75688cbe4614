import type { Rejection, RejectionCode } from './outbox.ts';
import type { TopicFacts } from './topics.ts';

/** Rejections of the topic as such: they are true of each of its messages. */
const TOPIC_LEVEL: ReadonlySet<RejectionCode> = new Set([
  'invalid_topic',
  'unknown_topic',
  'topic_forbidden',
]);

export const isTopicLevel = ({ code }: Rejection): boolean => TOPIC_LEVEL.has(code);

/** For how long what Kafka said of a topic is held against its next messages as well. */
const VERDICT_MS = 5_000;

/**
 * What a relay has learned of topics, so that one bad topic costs the others next to nothing: a batch never carries
 * what is known to be refused, and a topic under suspicion is tried by one record in a batch of its own.
 *
 *               in a rejected batch,                    that record is rejected
 *              the culprit not named                      (or Kafka names the topic)
 *   unknown ──────────────────────────▶ suspect ─────────────────────────────▶ condemned
 *     │                                  │   ▲                                     │
 *     └──────▶ proven ◀──────────────────┘   └─────────────────────────────────────┘
 *     delivered        the record is delivered             after five seconds
 *
 * While a topic is condemned its messages are parked without being sent: Kafka gave the answer moments ago.
 */
export class OutboxTopics {
  private readonly facts = new Map<string, TopicFacts>();
  private readonly learnedAt = new Map<string, number>();
  private readonly proven = new Set<string>();
  private readonly suspects = new Set<string>();
  private readonly verdicts = new Map<string, { rejection: Rejection; until: number }>();
  /** Grows with each new fact, so that a relay sees whether it would compose its batch differently now. */
  version = 0;

  /** `now` in milliseconds of any clock, the same for all methods. */
  learn(topic: string, facts: TopicFacts, now: number): void {
    if (JSON.stringify(this.freshFactsOf(topic, now)) !== JSON.stringify(facts)) this.version += 1;
    this.facts.set(topic, facts);
    this.learnedAt.set(topic, now);
  }

  /** Of whatever age: good enough to bring a batch into shape, not to refuse a message. */
  factsOf(topic: string): TopicFacts | undefined {
    return this.facts.get(topic);
  }

  /** What Kafka said moments ago, and may be held against a message. */
  freshFactsOf(topic: string, now: number): TopicFacts | undefined {
    const isFresh = now < (this.learnedAt.get(topic) ?? Number.NEGATIVE_INFINITY) + VERDICT_MS;
    return isFresh ? this.facts.get(topic) : undefined;
  }

  /** Kafka has taken records of these topics. */
  prove(topics: Iterable<string>): void {
    for (const topic of topics) {
      this.proven.add(topic);
      this.suspects.delete(topic);
    }
  }

  /** One of these topics was refused, and Kafka did not say which: those that never worked come first. */
  suspect(topics: Iterable<string>): void {
    const all = [...topics];
    const unproven = all.filter((topic) => !this.proven.has(topic));
    for (const topic of unproven.length > 0 ? unproven : all) this.suspects.add(topic);
  }

  isSuspect(topic: string): boolean {
    return this.suspects.has(topic);
  }

  condemn(topic: string, rejection: Rejection, now: number): void {
    this.proven.delete(topic);
    this.suspects.add(topic);
    this.verdicts.set(topic, { rejection, until: now + VERDICT_MS });
  }

  verdictOn(topic: string, now: number): Rejection | undefined {
    const verdict = this.verdicts.get(topic);
    return verdict && now < verdict.until ? verdict.rejection : undefined;
  }
}
