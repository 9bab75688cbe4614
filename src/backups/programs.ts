// PostgreSQL's own programs. Nothing that a task names ever stands in their arguments: what they connect to is in their
// environment, which holds nothing else.
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { failed, refused } from './names.ts';

export type PgProgram = 'pg_dump' | 'pg_dumpall' | 'pg_restore';

type Child = ChildProcessByStdio<Writable, Readable, Readable>;

const KILL_AFTER_MS = 1_000;
const STDERR_KEPT = 4_000;
const STDOUT_KEPT = 1_000_000;

/** Of a URL's parameters those that libpq knows by an environment variable. They win over the URL's other parts. */
const PARAMETERS: Record<string, string> = {
  host: 'PGHOST',
  port: 'PGPORT',
  user: 'PGUSER',
  password: 'PGPASSWORD',
  options: 'PGOPTIONS',
  sslrootcert: 'PGSSLROOTCERT',
  sslcert: 'PGSSLCERT',
  sslkey: 'PGSSLKEY',
};

/** The server's words for what another try does not change; the last for a pg_restore that is newer than the server. */
const DEFINITE =
  /password authentication failed|permission denied|must be (superuser|owner)|role ".*" does not exist|database ".*" does not exist|no pg_hba\.conf entry|server version mismatch|row-level security|unrecognized configuration parameter/;

/** What a program needs to connect to the database of `url`, as libpq reads it. */
export function connectionEnv(url: string): Record<string, string> {
  const { hostname, port, username, password, pathname, searchParams } = new URL(url);
  const env: Record<string, string> = { PGCONNECT_TIMEOUT: '10', PGAPPNAME: 'somaagent-orchestrator' };
  const set = (name: string, value: string | null) => {
    if (value) env[name] = value;
  };
  // Of an IPv6 host the brackets are the URL's.
  set('PGHOST', decodeURIComponent(hostname.replace(/^\[(.*)\]$/, '$1')));
  set('PGPORT', port);
  set('PGUSER', decodeURIComponent(username));
  set('PGPASSWORD', decodeURIComponent(password));
  set('PGDATABASE', decodeURIComponent(pathname.slice(1)));
  for (const [parameter, name] of Object.entries(PARAMETERS)) set(name, searchParams.get(parameter));
  set('PGSSLMODE', sslMode(searchParams));
  return env;
}

/** Wherever the connections of this service are encrypted, these are too. libpq does not know all of their ways to say so. */
function sslMode(parameters: URLSearchParams): string | null {
  const mode = parameters.get('sslmode');
  if (mode !== null && ['disable', 'require', 'verify-ca', 'verify-full'].includes(mode)) return mode;
  const isAsked =
    mode !== null ||
    !['', '0'].includes(parameters.get('ssl') ?? '') ||
    ['sslrootcert', 'sslcert', 'sslkey'].some((name) => parameters.has(name)) ||
    parameters.get('sslnegotiation') === 'direct';
  return isAsked ? 'require' : null;
}

export interface ProgramRun {
  program: PgProgram;
  args: string[];
  /** The URL of the database that it connects to, if it does. */
  url?: string;
  binDir: string | undefined;
  signal: AbortSignal;
}

/** A program that runs. It is stopped by the signal, and ends with this process. */
export class RunningProgram {
  readonly stdin: Writable;
  /** Rejects with what the program said if it fails. Somebody has to read its stdout. */
  readonly ended: Promise<void>;
  private readonly child: Child;
  private readonly run: ProgramRun;
  private said = '';
  private stopping: NodeJS.Timeout | undefined;
  private isOver = false;

  constructor(run: ProgramRun) {
    this.run = run;
    run.signal.throwIfAborted();
    const { program, args, url, binDir } = run;
    const command = binDir ? path.join(binDir, program) : program;
    const { PATH, HOME, PGPASSFILE } = process.env;
    this.child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      // A group of its own: it may be a script that waits for the real one.
      detached: true,
      env: definedOnly({ PATH, HOME, PGPASSFILE, LC_ALL: 'C', TZ: 'UTC', ...(url && connectionEnv(url)) }),
    });
    this.stdin = this.child.stdin;
    // A program that needs no more closes its end; whether it was content, its exit code says.
    this.stdin.on('error', () => {});
    this.child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.said = (this.said + text).slice(-STDERR_KEPT);
    });
    this.ended = this.end();
    this.ended.catch(() => {});
  }

  /** What it writes to stdout; the stream ends well only if the program does. */
  async *output(): AsyncGenerator<Buffer> {
    try {
      yield* this.child.stdout as AsyncIterable<Buffer>;
      await this.ended;
    } finally {
      this.stop();
    }
  }

  /** Reads what it writes to its end, keeping the beginning. */
  async text(): Promise<string> {
    let text = '';
    for await (const chunk of this.output()) if (text.length < STDOUT_KEPT) text += chunk;
    return text;
  }

  /** Asks it, and all that it has started, to end, and then makes them. Nobody waits for what they still say. */
  stop(): void {
    if (this.stopping || this.isOver || this.child.pid === undefined) return;
    this.kill('SIGTERM');
    this.stopping = setTimeout(() => {
      this.kill('SIGKILL');
      this.child.stdout.destroy();
      this.child.stderr.destroy();
    }, KILL_AFTER_MS);
  }

  private kill(signal: NodeJS.Signals): void {
    try {
      process.kill(-this.child.pid!, signal);
    } catch {
      // None of them is there any more.
    }
  }

  private async end(): Promise<void> {
    const { program, signal } = this.run;
    const stop = () => this.stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const [code, killedBy] = await once(this.child, 'close');
      signal.throwIfAborted();
      if (code === 0) return;
      throw this.failure(killedBy ? `was ended by ${killedBy}` : `ended with ${code}`);
    } catch (error) {
      if (isMissing(error)) throw refused(`${program} is not there: set SA01_PG_BIN_DIR`, { cause: error });
      throw error;
    } finally {
      this.isOver = true;
      clearTimeout(this.stopping);
      signal.removeEventListener('abort', stop);
    }
  }

  private failure(how: string): Error {
    const password = this.run.url && connectionEnv(this.run.url).PGPASSWORD;
    const said = this.said.trim().split('\n').slice(0, 5).join('; ');
    const shown = password ? said.replaceAll(password, '***') : said;
    const message = `${this.run.program} ${how}${shown ? `: ${shown}` : ''}`;
    return DEFINITE.test(this.said) ? refused(message) : failed(message);
  }
}

/** Its version, as `16.2`. */
export async function versionOf(
  program: PgProgram,
  binDir: string | undefined,
  signal: AbortSignal,
): Promise<string> {
  const running = new RunningProgram({ program, args: ['--version'], binDir, signal });
  running.stdin.end();
  const printed = await running.text();
  const version = /\(PostgreSQL\) (\d+(?:\.\d+)*)/.exec(printed)?.[1];
  if (version) return version;
  throw refused(`${program} says no version: ${JSON.stringify(printed.slice(0, 100))}`);
}

/** Refuses a program that is older than what it is to read (`what`, of version `least`): it may leave out what it does not know. */
export function requireAtLeast(program: PgProgram, version: string, what: string, least: string): void {
  const major = Number.parseInt(least, 10);
  if (Number.parseInt(version, 10) >= major) return;
  throw refused(
    `${program} is of version ${version} and ${what} of ${least}: set SA01_PG_BIN_DIR to the programs of PostgreSQL ${major} or newer`,
  );
}

const isMissing = (error: unknown): boolean =>
  error instanceof Error &&
  'code' in error &&
  'syscall' in error &&
  String(error.syscall).startsWith('spawn') &&
  ['ENOENT', 'EACCES', 'ENOTDIR'].includes(String(error.code));

const definedOnly = (env: Record<string, string | undefined>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
