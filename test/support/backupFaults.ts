import { execFile } from 'node:child_process';
import { type Readable, Transform } from 'node:stream';
import { promisify } from 'node:util';
import type { BackupDestination } from '../../src/backups/destination.ts';

/** A destination that says it wrote what it got, and wrote something else. */
export function faulty(
  destination: BackupDestination,
  fault: (chunk: Buffer, position: number) => Buffer,
): BackupDestination {
  return Object.assign(Object.create(destination) as BackupDestination, {
    write: ((address, file, content, signal) =>
      destination.write(address, file, altered(content, fault), signal)) as BackupDestination['write'],
  });
}

export const flipOneBit = (chunk: Buffer, position: number): Buffer => {
  if (position > 0) return chunk;
  const changed = Buffer.from(chunk);
  changed[Math.floor(chunk.length / 2)]! ^= 1;
  return changed;
};

/** Keeps the first bytes only. */
export const keepOnly =
  (bytes: number) =>
  (chunk: Buffer, position: number): Buffer =>
    chunk.subarray(0, Math.max(0, bytes - position));

function altered(content: Readable, fault: (chunk: Buffer, position: number) => Buffer): Readable {
  let position = 0;
  const through = new Transform({
    transform(chunk: Buffer, _, done) {
      const changed = fault(chunk, position);
      position += chunk.length;
      done(null, changed);
    },
  });
  content.on('error', (error) => through.destroy(error));
  return content.pipe(through);
}

/** The pids of a process's children that run the program. */
export async function childrenRunning(program: string, parent = process.pid): Promise<number[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=,args=']);
  return stdout
    .split('\n')
    .map((line) => /^\s*(\d+)\s+(\d+)\s+(\S+)/.exec(line))
    .filter((match) => match && Number(match[2]) === parent && match[3]!.endsWith(program))
    .map((match) => Number(match![1]));
}

/** Whether there is such a process; one that nobody has taken leave of yet is none any more. */
export async function isRunning(pid: number): Promise<boolean> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,stat=']);
  return new RegExp(`^ *${pid} +[^Z]`, 'm').test(stdout);
}
