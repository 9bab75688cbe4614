// The worker as a process of its own on a stack: what `npm start` runs, for the demo, for `npm run dev` and for tests.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export interface WorkerOptions {
  /** The variables that lead to the services, see Stack.env. */
  env: Record<string, string>;
  /** Where its log goes; kept in memory where no file is named. */
  logFile?: string;
}

/** Those of `npm start`. */
const NODE_OPTIONS = [
  '--disable-warning=TimeoutNegativeWarning',
  '--max-semi-space-size=6',
  '--heap-growing-percent=50',
];
const ENVIRONMENT = { MALLOC_ARENA_MAX: '1', MALLOC_TRIM_THRESHOLD_: '131072', UV_THREADPOOL_SIZE: '16' };
const READY_WITHIN_MS = 60_000;

export class WorkerProcess implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly metricsAddress: string;
  readonly #logFile: string | undefined;
  #output = '';

  constructor({ env, logFile }: WorkerOptions) {
    this.#logFile = logFile;
    this.metricsAddress = env.SA01_METRICS_ADDRESS ?? '127.0.0.1:9464';
    this.process = spawn(process.execPath, [...NODE_OPTIONS, 'src/worker.ts'], {
      env: { ...process.env, ...ENVIRONMENT, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const { stdout, stderr } = this.process;
    const file = logFile === undefined ? undefined : createWriteStream(logFile, { flags: 'a' });
    for (const stream of [stdout!, stderr!]) {
      stream.on('data', (chunk) => {
        if (file) file.write(chunk);
        else this.#output += chunk;
      });
    }
  }

  get output(): string {
    return this.#output;
  }

  get ended(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** Waits until its workers run; fails with what it said if it ends before. */
  async ready(): Promise<void> {
    const deadline = Date.now() + READY_WITHIN_MS;
    while (!this.ended && Date.now() < deadline) {
      const answer = await fetch(`http://${this.metricsAddress}/readyz`).catch(() => undefined);
      if (answer?.ok) return;
      await sleep(50);
    }
    throw new Error(`the worker ${this.ended ? 'ended' : 'is not ready'}: ${this.#logFile ?? this.#output}`);
  }

  /** Sends the signal and waits for the end: the exit code, or the signal's name. */
  async end(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<number | string> {
    if (!this.ended) {
      // Its last words are there only when its streams are closed.
      const closed = once(this.process, 'close');
      this.process.kill(signal);
      await closed;
    }
    return this.process.exitCode ?? this.process.signalCode!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL');
  }
}
