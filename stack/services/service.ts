import type { Ports } from '../ports.ts';
import type { Launch } from '../processes.ts';

/** A program as found or fetched: `home` is a binary, or the directory of a program that is more than one file. */
export interface Program {
  home: string;
  version: string;
}

/** What a service is started with. */
export interface Setting {
  /** The service's own directory: its data and its files of configuration. */
  directory: string;
  ports: Ports;
  program: Program;
}

/** One service of the stack: how to get it, start it and know that it is ready. */
export interface Service {
  title: string;
  /** The ports it listens on, the one that clients use first. */
  ports(ports: Ports): number[];
  /** Finds the program, or fetches or builds it once. */
  obtain(): Promise<Program>;
  /** Initialises the data directory if that has not been done, and says how to start the service. */
  prepare(setting: Setting): Promise<Launch>;
  /** Resolves when the service does real work for a client; rejects while it does not. */
  ready(ports: Ports): Promise<void>;
  /** What a client's environment needs. */
  env(ports: Ports): Record<string, string>;
  stopSignal: NodeJS.Signals;
  /** How long a stop may take before it is enforced. */
  stopWithinMs: number;
  /** Marks, in the log of a service that ended at its start, a reason that goes away by itself. */
  passing?: RegExp;
}
