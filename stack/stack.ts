// The embedded stack: real services on 127.0.0.1, each in its own directory, each startable and stoppable alone.
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { progress } from './cache.ts';
import { withLock } from './lock.ts';
import { stateRoot } from './paths.ts';
import { host, isFree, type Ports, publishedPorts } from './ports.ts';
import {
  isAlive,
  launch,
  type ProcessId,
  readRecord,
  removeRecord,
  signalTree,
  terminate,
  writeRecord,
} from './processes.ts';
import { lastLines, StackError } from './programs.ts';
import { kafka } from './services/kafka.ts';
import { postgres } from './services/postgres.ts';
import { redis } from './services/redis.ts';
import { s3 } from './services/s3.ts';
import type { Program, Service } from './services/service.ts';
import { temporal } from './services/temporal.ts';

export { freePorts, type Ports, publishedPorts } from './ports.ts';
export { StackError } from './programs.ts';
export { temporalCli } from './services/temporal.ts';

const byName = { postgres, kafka, redis, temporal, s3 } satisfies Record<string, Service>;

export type ServiceName = keyof typeof byName;

export const services = Object.keys(byName) as ServiceName[];

export interface ServiceStatus {
  name: ServiceName;
  state: 'ready' | 'not ready' | 'stopped';
  pid?: number;
  address: string;
  version?: string;
}

/** What is kept about a started service, so that any later process finds it again. */
interface StackRecord extends ProcessId {
  version: string;
  ports: number[];
}

const readyWithinMs = 90_000;
// A running service gets this long to answer before it counts as half-dead and is replaced.
const answersWithinMs = 10_000;

export interface StackOptions {
  /** Where data, logs and process records live; a stack is its directory. */
  directory?: string;
  ports?: Ports;
  /** Hears what was started, left running or replaced; on stderr by default. */
  report?: (line: string) => void;
}

/**
 * A handle on the stack of a directory. Several handles, also in several processes, may be used at once: a service is
 * started or stopped by one of them at a time, and a service that already runs and answers is left alone by `start`.
 */
export class Stack {
  readonly directory: string;
  readonly ports: Ports;
  readonly #report: (line: string) => void;

  constructor({ directory, ports = publishedPorts, report = progress }: StackOptions = {}) {
    this.directory = directory ?? path.join(stateRoot(), 'stack');
    this.ports = ports;
    this.#report = report;
  }

  /** Starts the services (all by default) and returns when every one of them does real work for a client. */
  async start(names: ServiceName[] = services): Promise<void> {
    await this.#each(names, (name) => this.#start(name));
  }

  /** Stops the services (all by default); their data stays. */
  async stop(names: ServiceName[] = services): Promise<void> {
    await this.#each(names, (name) => this.#stop(name));
  }

  async status(): Promise<ServiceStatus[]> {
    return Promise.all(
      services.map(async (name): Promise<ServiceStatus> => {
        const address = byName[name]
          .ports(this.ports)
          .map((port) => `${host}:${port}`)
          .join(' ');
        const record = this.#alive(name);
        if (!record) return { name, state: 'stopped', address };
        const answers = await within(2000, byName[name].ready(this.ports)).then(
          () => true,
          () => false,
        );
        return {
          name,
          state: answers ? 'ready' : 'not ready',
          pid: record.pid,
          address,
          version: record.version,
        };
      }),
    );
  }

  /** The variables that lead this service, and every S3 client, to the stack. */
  env(): Record<string, string> {
    return Object.assign({}, ...services.map((name) => byName[name].env(this.ports)));
  }

  /** The pid of a service's main process, undefined when it does not run. */
  pid(name: ServiceName): number | undefined {
    return this.#alive(name)?.pid;
  }

  /** Sends a signal to a service's main process and all its descendants: a crash, a freeze, a thaw. */
  signal(name: ServiceName, signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void {
    const record = this.#alive(name);
    if (!record) throw new StackError(`${byName[name].title} is not running, so it cannot get ${signal}.`);
    signalTree(record, signal);
  }

  /** The file with the service's own output; the previous run's is beside it (`.previous`). */
  log(name: ServiceName): string {
    return path.join(this.directory, name, 'output.log');
  }

  async #each(names: ServiceName[], work: (name: ServiceName) => Promise<void>) {
    const outcomes = await Promise.allSettled(
      names.map((name) => withLock(path.join(this.directory, `${name}.lock`), () => work(name))),
    );
    const failures = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason);
    if (failures.length === 1) throw failures[0];
    if (failures.length > 1) {
      const Kind = failures.every((failure) => failure instanceof StackError) ? StackError : Error;
      throw new Kind(failures.map((failure) => failure.message).join('\n'), { cause: failures });
    }
  }

  async #start(name: ServiceName) {
    const service = byName[name];
    const directory = path.join(this.directory, name);
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    if (await this.#runsAlready(name)) return;
    const began = Date.now();
    const program = await service.obtain();
    await this.#requireFreePorts(service);
    await this.#launchUntilReady(name, program);
    const seconds = ((Date.now() - began) / 1000).toFixed(1);
    this.#report(
      `${service.title} ${program.version} ready on ${host}:${service.ports(this.ports)[0]} (${seconds} s)`,
    );
  }

  /** True for a service that runs and answers; what is half-dead or listens elsewhere is ended, for a new start. */
  async #runsAlready(name: ServiceName): Promise<boolean> {
    const service = byName[name];
    const record = this.#alive(name);
    if (!record) return false;
    if (record.ports.join() === service.ports(this.ports).join()) {
      const answers = await waitUntilReady(service, this.ports, record, answersWithinMs).then(
        () => true,
        () => false,
      );
      if (answers) {
        this.#report(
          `${service.title} ${record.version} is already running (process ${record.pid}), left as it is`,
        );
        return true;
      }
    }
    this.#report(`${service.title}: replacing process ${record.pid}, left over from an earlier run`);
    await this.#stop(name);
    return false;
  }

  async #requireFreePorts(service: Service) {
    for (const port of service.ports(this.ports)) {
      if (await isFree(port)) continue;
      throw new StackError(
        `${service.title} cannot start because another program uses port ${port} of ${host}: stop that program (lsof -i :${port} names it).`,
      );
    }
  }

  async #launchUntilReady(name: ServiceName, program: Program) {
    const service = byName[name];
    const directory = path.join(this.directory, name);
    const deadline = Date.now() + readyWithinMs;
    for (;;) {
      const id = launch(await service.prepare({ directory, ports: this.ports, program }), this.log(name));
      // At once, before anything else: a service that nobody recorded could not be found again.
      const record: StackRecord = { ...id, version: program.version, ports: service.ports(this.ports) };
      writeRecord(this.#recordFile(name), record);
      try {
        return await waitUntilReady(service, this.ports, id, deadline - Date.now());
      } catch (error) {
        const output = readFileSync(this.log(name), 'utf8');
        await this.#stop(name);
        if (service.passing?.test(output) && Date.now() < deadline) continue;
        const reason = error instanceof Error ? error.message : String(error);
        throw new StackError(
          `${service.title} did not start: ${reason}; the last lines of ${this.log(name)}:\n${lastLines(output, 15)}`,
        );
      }
    }
  }

  async #stop(name: ServiceName) {
    const record = this.#alive(name);
    if (record) await terminate(record, byName[name].stopSignal, byName[name].stopWithinMs);
    removeRecord(this.#recordFile(name));
  }

  #alive(name: ServiceName): StackRecord | undefined {
    const record = readRecord<StackRecord>(this.#recordFile(name));
    return record && isAlive(record) ? record : undefined;
  }

  #recordFile(name: ServiceName): string {
    return path.join(this.directory, `${name}.process.json`);
  }
}

async function waitUntilReady(service: Service, ports: Ports, id: ProcessId, withinMs: number) {
  const deadline = Date.now() + withinMs;
  let last: unknown;
  while (Date.now() < deadline) {
    if (!isAlive(id)) throw new Error('its process ended');
    try {
      return await within(Math.min(10_000, deadline - Date.now()), service.ready(ports));
    } catch (error) {
      last = error;
    }
    await sleep(100);
  }
  throw new Error(`not ready within ${withinMs / 1000} s (${last instanceof Error ? last.message : last})`);
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${ms} ms`)), Math.max(ms, 0));
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
    // The loser may still fail, and nobody listens any more.
    work.catch(() => {});
  }
}
