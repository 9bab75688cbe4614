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
  client: ReturnType<typeof clientFor>;
}

/** A Redis of a test's own, because backups ask for settings that others would notice. */
export async function ownRedis(
  options: Record<string, string>,
  { file, password }: { file?: string; password?: string } = {},
): Promise<OwnRedis> {
  const { home } = await redis.obtain();
  const made = await mkdtemp(path.join(tmpdir(), 'redis-'));
  const port = await freePort();
  const where = file ? { dir: path.dirname(file), dbfilename: path.basename(file) } : { dir: made };
  const all = { bind: '127.0.0.1', port: String(port), save: '', ...where, ...options };
  const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
  const server = spawn(home, args, { stdio: 'ignore', cwd: made });
  const url = `redis://${password ? `:${password}@` : ''}127.0.0.1:${port}/0`;
  const client = await eventually('Redis', async () => {
    const connecting = clientFor(url);
    connecting.on('error', () => {});
    await connecting.connect();
    return connecting;
  });
  return {
    url,
    client,
    async [Symbol.asyncDispose]() {
      client.destroy();
      const ended = once(server, 'exit');
      server.kill('SIGKILL');
      await ended;
      await rm(made, { recursive: true, force: true });
    },
  };
}

const clientFor = (url: string) => createClient({ url, socket: { reconnectStrategy: false } });
