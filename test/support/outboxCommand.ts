import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { eventually } from './eventually.ts';
import { testStack } from './stack.ts';

export interface CommandResult {
  /** The exit code, or the signal's name. */
  code: number | string;
  stdout: string;
  stderr: string;
}

/** `npm run outbox -- …` as a process of its own on the run's stack. */
export class OutboxCommand implements AsyncDisposable {
  stdout = '';
  stderr = '';
  private readonly process: ChildProcess;
  private readonly closed: Promise<unknown>;

  constructor(env: Record<string, string>, args: string[]) {
    const options = ['--disable-warning=TimeoutNegativeWarning', 'src/outboxCommand.ts', ...args];
    this.process = spawn(process.execPath, options, {
      env: { ...process.env, ...testStack().env(), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.process.stdout!.on('data', (chunk) => {
      this.stdout += chunk;
    });
    this.process.stderr!.on('data', (chunk) => {
      this.stderr += chunk;
    });
    this.closed = once(this.process, 'close');
  }

  /** Waits until it has said something, or has ended. */
  async said(sentence: RegExp): Promise<void> {
    await eventually(String(sentence), () => sentence.test(this.stdout) || this.process.exitCode !== null, {
      everyMs: 5,
    });
  }

  async end(): Promise<CommandResult> {
    await this.closed;
    return {
      code: this.process.exitCode ?? this.process.signalCode!,
      stdout: this.stdout,
      stderr: this.stderr,
    };
  }

  async kill(): Promise<CommandResult> {
    this.process.kill('SIGKILL');
    return this.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

export const runOutboxCommand = (env: Record<string, string>, ...args: string[]): Promise<CommandResult> =>
  new OutboxCommand(env, args).end();
