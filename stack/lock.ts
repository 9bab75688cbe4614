// Mutual exclusion between processes.
//
// The lock is SQLite's exclusive lock on an empty file, which the kernel drops with the process that holds it. So
// there is no crashed holder to recognise, and none of the races of stealing a stale lock file.
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';

const SQLITE_BUSY = 5;
const retryEveryMs = 50;

/** Runs `work` while no other process, and no other caller in this one, holds the lock at `file`. */
export async function withLock<T>(file: string, work: () => Promise<T>, onWait?: () => void): Promise<T> {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
  let waited = false;
  let held = tryLock(file);
  while (!held) {
    if (!waited) onWait?.();
    waited = true;
    await sleep(retryEveryMs);
    held = tryLock(file);
  }
  try {
    return await work();
  } finally {
    held.close();
  }
}

function tryLock(file: string): DatabaseSync | undefined {
  const database = new DatabaseSync(file, { timeout: 0 });
  try {
    database.exec('BEGIN EXCLUSIVE');
    return database;
  } catch (error) {
    database.close();
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return undefined;
    throw error;
  }
}
