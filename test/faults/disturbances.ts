import { setTimeout as delay } from 'node:timers/promises';
import type { ServiceName, Stack } from '../../stack/stack.ts';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import type { Random } from './random.ts';

/** What is there to be disturbed. `workers` is changed in place: a killed one is replaced. */
export interface Scene {
  stack: Stack;
  workers: WorkerProcess[];
  startWorker(): Promise<WorkerProcess>;
  random: Random;
}

const killed = ['kafka', 'postgres', 'temporal'] as const satisfies ServiceName[];
const frozen = ['kafka', 'postgres'] as const satisfies ServiceName[];

async function killWorker({ workers, startWorker, random }: Scene): Promise<string> {
  const index = random.between(0, workers.length - 1);
  await workers[index]!.end('SIGKILL');
  workers[index] = await startWorker();
  return `worker ${index} killed`;
}

/** A zombie: its successor works while it sleeps, and it wakes in the belief that the shard is still its own. */
async function freezeWorker({ workers, random }: Scene): Promise<string> {
  const index = random.between(0, workers.length - 1);
  const { process } = workers[index]!;
  const seconds = random.between(3, 20);
  process.kill('SIGSTOP');
  setTimeout(() => process.kill('SIGCONT'), seconds * 1000).unref();
  return `worker ${index} frozen for ${seconds} s`;
}

async function killService({ stack, random }: Scene): Promise<string> {
  const service = random.oneOf(killed);
  stack.signal(service, 'SIGKILL');
  await delay(random.between(0, 3_000));
  await stack.start([service]);
  return `${service} killed`;
}

async function freezeService({ stack, random }: Scene): Promise<string> {
  const service = random.oneOf(frozen);
  const seconds = random.between(2, 9);
  stack.signal(service, 'SIGSTOP');
  await delay(seconds * 1000);
  stack.signal(service, 'SIGCONT');
  return `${service} frozen for ${seconds} s`;
}

const disturbances = [
  killWorker,
  killWorker,
  freezeWorker,
  freezeWorker,
  killService,
  killService,
  freezeService,
];

/** Does one thing to the scene, and says what it was. */
export function disturb(scene: Scene): Promise<string> {
  return scene.random.oneOf(disturbances)(scene);
}
