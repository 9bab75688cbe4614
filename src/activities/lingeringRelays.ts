import type { Logger } from 'pino';
import { describeError } from '../domain/errors.ts';

/** A relay at work in this process. */
export interface RunningRelay {
  /** Settles when it has ended. */
  done: Promise<void>;
  /** Has it finish its batch and end. */
  stop(): void;
}

/** As long as it takes Temporal to notice that a run is lost. */
const LINGER_MS = 8_000;

/**
 * Relays whose run is over, and which go on until the next one begins. It comes by way of Temporal, which takes a
 * tenth of a second, and some seconds where Temporal is busy: rows need not wait for that.
 *
 *               run is over            the shard's next run here, 8 s, the worker stops
 *   at work ──────────────▶ lingering ──────────────────────────────────────────────────▶ ended, its batch finished
 *      │                        │
 *      │ run is cancelled       └── its next run elsewhere: fenced by the takeover ──▶ ended
 *      └──▶ ended, its batch finished
 */
export class LingeringRelays {
  private readonly relays = new Map<number, RunningRelay>();
  private readonly logger: Logger;
  private isClosed = false;

  constructor(logger: Logger) {
    this.logger = logger;
  }

  /** From here on nobody else looks after this relay. Where none may linger any more, it has ended on return. */
  async leave(shard: number, relay: RunningRelay): Promise<void> {
    if (this.isClosed) {
      relay.stop();
      return relay.done;
    }
    this.relays.set(shard, relay);
    const timer = setTimeout(() => relay.stop(), LINGER_MS);
    relay.done
      .catch((error: unknown) => {
        this.logger.debug({ shard, error: describeError(error) }, 'relay ended after its run');
      })
      .finally(() => {
        clearTimeout(timer);
        if (this.relays.get(shard) === relay) this.relays.delete(shard);
      });
  }

  /** Has the shard's relay end, if there is one, and waits for it. */
  async end(shard: number): Promise<void> {
    const relay = this.relays.get(shard);
    relay?.stop();
    // What ended it is its successor's to find out.
    await relay?.done.catch(() => {});
  }

  /** None lingers from here on. */
  async close(): Promise<void> {
    this.isClosed = true;
    await Promise.all([...this.relays.keys()].map((shard) => this.end(shard)));
  }
}
