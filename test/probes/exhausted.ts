// Run by ownFailures.test.ts in a process with few file descriptors: takes them all, probes, and prints the results.
import { closeSync, openSync } from 'node:fs';
import { devNull, tmpdir } from 'node:os';
import { probeAll } from '../../src/probes/probe.ts';
import type { ProbeTarget } from '../../src/probes/target.ts';
import { probeTools, stackAddresses, targetsAt } from '../support/probes.ts';

const address = process.argv[2]!;
const targets: ProbeTarget[] = [
  ...targetsAt(address),
  { kind: 'http', url: `http://localhost:${address.split(':')[1]}` },
  { kind: 'filesystem', root: tmpdir() },
];
const probing = { members: Object.fromEntries(targets.map((target, index) => [index, probingOf(target)])) };

function probingOf(target: ProbeTarget) {
  return { target, limitSeconds: 10 };
}

await using tools = probeTools({ ...stackAddresses(), temporal: address });
const taken: number[] = [];
for (;;) {
  try {
    taken.push(openSync(devNull, 'r'));
  } catch {
    break;
  }
}
const { gateway } = await probeAll({ gateway: probing }, tools);
for (const descriptor of taken) closeSync(descriptor);
console.log(JSON.stringify(gateway));
process.exit(0);
