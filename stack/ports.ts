// The ports of the stack, all on 127.0.0.1.
import { createServer } from 'node:net';

export const host = '127.0.0.1';

/** The published ports of the source's compose file; it publishes none for the last three. */
export const publishedPorts = {
  postgres: 20432,
  kafka: 20092,
  redis: 20379,
  temporal: 7233,
  temporalUi: 8233,
  kafkaController: 20093,
  s3: 20900,
};

export type Ports = Record<keyof typeof publishedPorts, number>;

// Below the ports that kernels give to outgoing connections (Linux from 32768, macOS from 49152): one of those could
// take a port between the look at it and its use.
const first = 22_000;
const blocks = 1000;
const names = Object.keys(publishedPorts) as (keyof Ports)[];
let calls = 0;
const firstSingle = 12_000;
const singlePorts = 8_000;
let singleCalls = 0;

/**
 * Ports that nobody listens on at the moment: one block of neighbours. The search starts at a block that depends on
 * the process id, so that test files running side by side do not look at the same ports.
 */
export async function freePorts(): Promise<Ports> {
  const start = process.pid + 331 * calls++;
  for (let tried = 0; tried < blocks; tried++) {
    const base = first + ((start + tried) % blocks) * 10;
    const ports = Object.fromEntries(names.map((name, index) => [name, base + index])) as Ports;
    const free = await Promise.all(Object.values(ports).map(isFree));
    if (free.every(Boolean)) return ports;
  }
  throw new Error(`no block of ${names.length} free ports between ${first} and ${first + blocks * 10}`);
}

/** Whether a program could listen on the port now. */
export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** One port that nobody listens on at the moment; below those of the stacks, for the same reason as theirs. */
export async function freePort(): Promise<number> {
  for (let tried = 0; tried < singlePorts; tried++) {
    const port = firstSingle + ((process.pid * 61 + singleCalls++) % singlePorts);
    if (await isFree(port)) return port;
  }
  throw new Error(`no free port between ${firstSingle} and ${firstSingle + singlePorts}`);
}
