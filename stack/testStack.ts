// Stacks for tests: own directory, own ports, and nothing left of test runs that were killed.
import { mkdirSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { withLock } from './lock.ts';
import { stateRoot } from './paths.ts';
import { freePorts } from './ports.ts';
import { identify, isAlive, type ProcessId, readRecord, writeRecord } from './processes.ts';
import { Stack } from './stack.ts';

const prefix = 'test-';
const ownerFile = 'owner.json';
let created = 0;

/** A stack of one test process. `remove` (or `await using`) stops it and deletes its data. */
export class TestStack extends Stack {
  async remove(): Promise<void> {
    await this.stop();
    await rm(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}

/** A new, empty stack on free ports, not started. Removes first what dead test processes left. */
export async function createTestStack(report: (line: string) => void = () => {}): Promise<TestStack> {
  const root = stateRoot();
  // One at a time, so that nobody sweeps a directory whose owner is not written yet.
  return withLock(path.join(root, 'test.lock'), async () => {
    await sweep(root);
    const directory = path.join(root, `${prefix}${process.pid}-${++created}`);
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    writeRecord(path.join(directory, ownerFile), identify(process.pid));
    return new TestStack({ directory, ports: await freePorts(), report });
  });
}

async function sweep(root: string) {
  for (const name of readdirSync(root).filter((entry) => entry.startsWith(prefix))) {
    const directory = path.join(root, name);
    const owner = readRecord<ProcessId>(path.join(directory, ownerFile));
    if (owner && isAlive(owner)) continue;
    // The ports do not matter for a stop: processes are found by their records.
    await new TestStack({ directory }).remove();
  }
}
