import { readFileSync } from 'node:fs';

const MIB = 1024;

/** Resident memory of a process, now and at its highest, in MiB (Linux only). */
export function memoryOf(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const read = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)![1]) / MIB;
  return { now: read('VmRSS'), peak: read('VmHWM') };
}

/** Processor seconds that a process has used, all of its threads (Linux only; USER_HZ is 100 everywhere). */
export function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // Fields are counted behind the program's name, which may hold spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
