import { chmod, mkdir, rename } from 'node:fs/promises';
import path from 'node:path';
import { createClient } from 'redis';
import { cached } from '../cache.ts';
import { host, type Ports } from '../ports.ts';
import { copyMavenArtifacts, javaTool, ownBinary, run, StackError } from '../programs.ts';
import type { Program, Service } from './service.ts';

// The real server, packed for Java's tests: the one package registry that has it for every platform.
const artifact = 'com.github.codemonstur:embedded-redis:1.4.3';
const packed: Record<string, string> = {
  'linux-x64': 'redis-server-6.2.6-v5-linux-amd64',
  'linux-arm64': 'redis-server-6.2.7-linux-arm64',
  'darwin-x64': 'redis-server-6.2.6-v5-darwin-amd64',
  'darwin-arm64': 'redis-server-6.2.6-v5-darwin-arm64',
};
const hint = 'put redis-server on the PATH or name its binary in SA01_REDIS_SERVER';

async function obtain(): Promise<Program> {
  const own = ownBinary('redis-server', 'SA01_REDIS_SERVER');
  const home = own ?? path.join(await cached('redis-6.2', (directory) => unpack(directory)), 'redis-server');
  const printed = await run(home, ['--version']);
  return { home, version: /v=(\S+)/.exec(printed)?.[1] ?? printed.trim() };
}

async function unpack(directory: string) {
  const entry = packed[`${process.platform}-${process.arch}`];
  if (!entry)
    throw new StackError(`Redis cannot be fetched for ${process.platform}-${process.arch}: ${hint}.`);
  const jar = javaTool('jar', 'Unpacking Redis');
  await copyMavenArtifacts('Redis', [artifact], directory);
  const [, name, version] = artifact.split(':');
  await run(jar, ['xf', path.join(directory, 'libs', `${name}-${version}.jar`), entry], { cwd: directory });
  await rename(path.join(directory, entry), path.join(directory, 'redis-server'));
  await chmod(path.join(directory, 'redis-server'), 0o755);
}

const url = (ports: Ports) => `redis://${host}:${ports.redis}/0`;

export const redis: Service = {
  title: 'Redis',
  ports: (ports) => [ports.redis],
  obtain,
  async prepare({ directory, ports, program }) {
    const data = path.join(directory, 'data');
    await mkdir(data, { recursive: true });
    const options = {
      bind: host,
      port: ports.redis,
      dir: data,
      appendonly: 'yes',
      appendfsync: 'everysec',
      save: '',
    };
    return {
      command: program.home,
      args: Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]),
      env: {},
      cwd: data,
    };
  },
  async ready(ports) {
    const client = createClient({
      url: url(ports),
      socket: { reconnectStrategy: false, connectTimeout: 2000 },
    });
    client.on('error', () => {});
    try {
      await client.connect();
      // Refused while the append-only file is being loaded.
      await client.ping();
    } finally {
      client.destroy();
    }
  },
  env: (ports) => ({ SA01_REDIS_URL: url(ports) }),
  stopSignal: 'SIGTERM',
  stopWithinMs: 5000,
};
