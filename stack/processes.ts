// Processes that outlive the command which started them, known by pid and start time, never by name.
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** A process for certain: a pid is reused sooner or later, a pid with its start time is not. */
export interface ProcessId {
  pid: number;
  started: string;
}

export interface Launch {
  command: string;
  args: string[];
  /** All that the process gets: a variable of the user's shell must not change how a service behaves. */
  env: Record<string, string>;
  cwd: string;
  uid?: number;
  gid?: number;
}

interface Stat {
  parent: number;
  started: string;
  running: boolean;
}

const hasProc = existsSync('/proc/self/stat');
// Start times count from the boot, so they mean nothing after the next one.
const boot = hasProc ? readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim() : '';

function stat(pid: number): Stat | undefined {
  return hasProc ? statFromProc(pid) : statsFromPs(['-p', String(pid)]).get(pid);
}

function statFromProc(pid: number): Stat | undefined {
  let line: string;
  try {
    line = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The command's name, in parentheses, may hold anything; the fields behind it start with state and parent, the 18th is
  // the number of threads, the 20th the start time. A zombie with threads is still on its way out, with its ports open.
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
  const running = !'ZX'.includes(fields[0]!) || Number(fields[17]) > 1;
  return { parent: Number(fields[1]), started: `${boot}/${fields[19]}`, running };
}

function statsFromPs(selection: string[]): Map<number, Stat> {
  const args = ['-o', 'pid=,ppid=,stat=,lstart=', ...selection];
  const lines = spawnSync('ps', args, {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  }).stdout.split('\n');
  const found = new Map<number, Stat>();
  for (const line of lines) {
    const [pid, parent, state, ...started] = line.trim().split(/\s+/);
    if (state) {
      found.set(Number(pid), {
        parent: Number(parent),
        started: started.join(' '),
        running: !state.startsWith('Z'),
      });
    }
  }
  return found;
}

function allStats(): Map<number, Stat> {
  if (!hasProc) return statsFromPs(['-A']);
  const found = new Map<number, Stat>();
  for (const pid of readdirSync('/proc').map(Number).filter(Boolean)) {
    const one = statFromProc(pid);
    if (one) found.set(pid, one);
  }
  return found;
}

/** The identity of a running process, undefined when there is none of that pid. */
export function identify(pid: number): ProcessId | undefined {
  const found = stat(pid);
  return found?.running ? { pid, started: found.started } : undefined;
}

export function isAlive(id: ProcessId): boolean {
  return identify(id.pid)?.started === id.started;
}

/** The process and all that descend from it, parents first. */
function tree(root: ProcessId): ProcessId[] {
  const stats = allStats();
  if (stats.get(root.pid)?.started !== root.started) return [];
  const members = [root];
  // The list grows while it is walked, so grandchildren are found too.
  for (const member of members) {
    for (const [pid, { parent, started, running }] of stats) {
      if (parent === member.pid && running) members.push({ pid, started });
    }
  }
  return members;
}

/**
 * Sends the signal to the process and all its descendants. A signal to the process group would miss PostgreSQL's
 * backends, which have sessions of their own and could go on writing after their postmaster was killed or frozen.
 */
export function signalTree(root: ProcessId, signal: NodeJS.Signals): ProcessId[] {
  // Frozen first, the root cannot fork between the look at the tree and the signals.
  if (signal === 'SIGKILL') send(root, 'SIGSTOP');
  const members = tree(root);
  for (const member of members) send(member, signal);
  return members;
}

function send(id: ProcessId, signal: NodeJS.Signals) {
  if (!isAlive(id)) return;
  try {
    process.kill(id.pid, signal);
  } catch (error) {
    // It ended in between.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Starts a process detached from this one, its output in `log` (the previous run's log is kept beside it). */
export function launch({ command, args, ...options }: Launch, log: string): ProcessId {
  if (existsSync(log)) renameSync(log, `${log}.previous`);
  const output = openSync(log, 'a');
  try {
    const child = spawn(command, args, { ...options, detached: true, stdio: ['ignore', output, output] });
    // What went wrong is reported by the missing pid below; without a listener it would end this process.
    child.on('error', () => {});
    child.unref();
    const id = child.pid === undefined ? undefined : identify(child.pid);
    if (!id) throw new Error(`${command} could not be started`);
    return id;
  } finally {
    closeSync(output);
  }
}

/** Asks the process to end with `signal`; after `graceMs` kills it with all its descendants. Returns when all are gone. */
export async function terminate(id: ProcessId, signal: NodeJS.Signals, graceMs: number): Promise<void> {
  const members = tree(id);
  send(id, signal);
  // A frozen process would not get to see the signal.
  for (const member of members) send(member, 'SIGCONT');
  if (!(await allGone(members, graceMs))) {
    members.push(...signalTree(id, 'SIGKILL'));
    for (const member of members) send(member, 'SIGKILL');
  }
  if (!(await allGone(members, 10_000)))
    throw new Error(`process ${id.pid} does not end, not even by SIGKILL`);
}

async function allGone(ids: ProcessId[], withinMs: number): Promise<boolean> {
  const deadline = Date.now() + withinMs;
  while (ids.some(isAlive)) {
    if (Date.now() > deadline) return false;
    await sleep(20);
  }
  return true;
}

/** Writes JSON so that a reader, or the next start after a crash, sees the whole of it or nothing. */
export function writeRecord(file: string, record: unknown) {
  writeFileSync(`${file}.partial`, JSON.stringify(record));
  renameSync(`${file}.partial`, file);
}

export function readRecord<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

export function removeRecord(file: string) {
  rmSync(file, { force: true });
}
