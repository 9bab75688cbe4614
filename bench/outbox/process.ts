import { readFileSync } from 'node:fs';

const MIB = 1024;

/** Resident memory of a process, now and at its highest, in MiB (Linux only). */
export function memoryOf(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const read = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)![1]) / MIB;
  return { now: read('VmRSS'), peak: read('VmHWM') };
}

/** Processor seconds that a process has used, all of its threads (Linux only; USER_HZ is 100 everywhere). */
export const cpuSecondsOf = (pid: number): number => processorTimes(pid).own;

/** The same with its children, those that have ended among them: a server that has a process for each client. */
export function cpuSecondsOfFamily(pid: number): number {
  const { own, endedChildren } = processorTimes(pid);
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
  return children.reduce((sum, child) => sum + cpuSecondsIfAlive(Number(child)), own + endedChildren);
}

function cpuSecondsIfAlive(pid: number): number {
  try {
    return cpuSecondsOf(pid);
  } catch {
    return 0;
  }
}

function processorTimes(pid: number): { own: number; endedChildren: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // Fields are counted behind the program's name, which may hold spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const seconds = (first: number) => (Number(fields[first]) + Number(fields[first + 1])) / 100;
  return { own: seconds(11), endedChildren: seconds(13) };
}
