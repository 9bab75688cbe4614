import { randomUUID } from 'node:crypto';
import { createClient } from 'redis';

/** A canary that nobody deleted is gone after this. */
const EXPIRY_SECONDS = 60;

type RedisClient = ReturnType<typeof connectionTo>;

/**
 * Sends a PING over a connection of its own. A server that is loading its data, or wants another password, is down.
 * @throws what kept Redis from answering, or what it answers
 */
export const probeRedis = (url: string, signal: AbortSignal): Promise<void> =>
  withRedis(url, signal, async (client) => {
    await client.ping();
  });

/**
 * Writes a small value that expires, reads it back and deletes it: Redis as a place to store things.
 * @throws what kept Redis from storing, or that it gave something else back
 */
export const probeRedisStore = (url: string, signal: AbortSignal): Promise<void> =>
  withRedis(url, signal, async (client) => {
    const key = `health:canary:${randomUUID()}`;
    const canary = randomUUID();
    await client.set(key, canary, { expiration: { type: 'EX', value: EXPIRY_SECONDS } });
    const found = await client.get(key);
    await client.del(key);
    if (found !== canary) throw new Error('what was written reads back as something else');
  });

async function withRedis(
  url: string,
  signal: AbortSignal,
  work: (client: RedisClient) => Promise<void>,
): Promise<void> {
  const client = connectionTo(url, signal);
  // Errors of the connection arrive here as well as where somebody waits for an answer.
  client.on('error', () => {});
  try {
    await client.connect();
    await work(client);
  } finally {
    client.destroy();
  }
}

/** Neither tries again nor gives up by itself: how long it may take is the signal's affair. */
const connectionTo = (url: string, signal: AbortSignal) =>
  createClient({ url, socket: { reconnectStrategy: false, connectTimeout: 0, signal } });
