import { EventEmitter, once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { connect, disconnect } from './postgres.ts';

const CHANNEL = 'somaagent_outbox';
/** Wakes the relays that wait, at the end of the transaction; what the trigger on INSERT does for new rows. */
export const WAKE_UP = `NOTIFY ${CHANNEL}`;
const RECONNECT_MS = 1_000;

/**
 * The worker's ear for new outbox rows: one LISTEN connection for all of its shards. It is a hint only. While the
 * connection is down, or behind a pooler that has no LISTEN, waits simply last their full time and the relays poll.
 */
export class OutboxWakeUps {
  private readonly databaseUrl: string;
  private readonly channel: string;
  private readonly notifications = new EventEmitter().setMaxListeners(0);
  private readonly closed = new AbortController();
  private readonly listening: Promise<void>;

  constructor(databaseUrl: string, channel = CHANNEL) {
    this.databaseUrl = databaseUrl;
    this.channel = channel;
    this.listening = this.keepListening();
  }

  /** Resolves at the next notification, after `ms`, or when `signal` aborts, whichever comes first. */
  async wait(ms: number, signal: AbortSignal): Promise<void> {
    const until = AbortSignal.any([signal, AbortSignal.timeout(ms)]);
    await once(this.notifications, this.channel, { signal: until }).catch(() => {});
  }

  async close(): Promise<void> {
    this.closed.abort();
    await this.listening;
  }

  private async keepListening(): Promise<void> {
    while (!this.closed.signal.aborted) {
      await this.listen().catch(() => {});
      await delay(RECONNECT_MS, undefined, { signal: this.closed.signal }).catch(() => {});
    }
  }

  private async listen(): Promise<void> {
    const client: pg.Client = await connect(this.databaseUrl);
    try {
      client.on('notification', () => this.notifications.emit(this.channel));
      await client.query(`LISTEN ${this.channel}`);
      await once(client, 'end', { signal: this.closed.signal });
    } finally {
      await disconnect(client);
    }
  }
}
