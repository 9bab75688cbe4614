import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createClient } from 'redis';
import { freePort } from '../../stack/ports.ts';
import { redis } from '../../stack/services/redis.ts';
import { eventually } from './eventually.ts';

export interface OwnRedis extends AsyncDisposable {
  url: string;
}

/** A Redis of one test, for what must not be done to the stack's. `options` are those of redis.conf. */
export async function ownRedis(options: Record<string, string> = {}): Promise<OwnRedis> {
  const { home } = await redis.obtain();
  const directory = await mkdtemp(path.join(tmpdir(), 'redis-'));
  const port = await freePort();
  const all = { bind: '127.0.0.1', port: String(port), dir: directory, save: '', ...options };
  const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, ...value.split(' ')]);
  const server = spawn(home, args, { stdio: 'ignore' });
  const url = `redis://127.0.0.1:${port}/0`;
  await eventually('Redis answers', () => pings(url, options.requirepass));
  return {
    url,
    async [Symbol.asyncDispose]() {
      const gone = once(server, 'exit');
      server.kill('SIGKILL');
      await gone;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function pings(url: string, password: string | undefined): Promise<boolean> {
  const client = createClient({ url, ...(password && { password }), socket: { reconnectStrategy: false } });
  client.on('error', () => {});
  try {
    await client.connect();
    return (await client.ping()) === 'PONG';
  } finally {
    client.destroy();
  }
}
