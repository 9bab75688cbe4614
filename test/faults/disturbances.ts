import { setTimeout as delay } from 'node:timers/promises';
import type { ServiceName, Stack } from '../../stack/stack.ts';
import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { type Direction, Loss } from '../support/faultProxy.ts';
import { type Links, linked } from './links.ts';
import type { Random } from './random.ts';
import type { Fault } from './tally.ts';

/** What is there to be disturbed. `workers` is changed in place: a killed one is replaced. */
export interface Scene {
  stack: Stack;
  workers: WorkerProcess[];
  /** The ways of each worker, which outlive it. */
  links: Links[];
  startWorker(index: number): Promise<WorkerProcess>;
  /** Rows that the relays have delivered and settled so far. */
  delivered(): Promise<number>;
}

/** Does one thing, and says what it was; undefined where its occasion did not come. */
type Disturbance = (scene: Scene, random: Random) => Promise<Fault | undefined>;

const killWorker: Disturbance = async ({ workers, startWorker }, random) => {
  const index = random.between(0, workers.length - 1);
  await workers[index]!.end('SIGKILL');
  workers[index] = await startWorker(index);
  return { deed: 'kill', of: 'worker', detail: `number ${index}` };
};

/** A zombie: its successor works while it sleeps, and it wakes in the belief that the shard is still its own. */
const freezeWorker: Disturbance = async ({ workers }, random) => {
  const index = random.between(0, workers.length - 1);
  const { process } = workers[index]!;
  const seconds = random.between(3, 20);
  process.kill('SIGSTOP');
  setTimeout(() => process.kill('SIGCONT'), seconds * 1000).unref();
  return { deed: 'freeze', of: 'worker', detail: `number ${index}, ${seconds} s` };
};

const kill =
  (service: ServiceName): Disturbance =>
  async ({ stack }, random) => {
    stack.signal(service, 'SIGKILL');
    await delay(random.between(0, 3_000));
    await stack.start([service]);
    return { deed: 'kill', of: service };
  };

const freeze =
  (service: ServiceName): Disturbance =>
  async ({ stack }, random) => {
    const seconds = random.between(2, 12);
    stack.signal(service, 'SIGSTOP');
    await delay(seconds * 1000);
    stack.signal(service, 'SIGCONT');
    return { deed: 'freeze', of: service, detail: `${seconds} s` };
  };

const cut: Disturbance = async ({ links }, random) => {
  const [index, service] = [random.between(0, links.length - 1), random.oneOf(linked)];
  links[index]![service].cut();
  return { deed: 'cut', of: service, detail: `of worker ${index}` };
};

/** Nobody waits for its end: other things happen meanwhile, and its late messages come when they come. */
const stall: Disturbance = async ({ links }, random) => {
  const [index, service] = [random.between(0, links.length - 1), random.oneOf(linked)];
  const directions = random.oneOf<Direction[]>([['request'], ['response'], ['request', 'response']]);
  const [seconds, end] = [random.between(2, 14), random.oneOf(['continue', 'cut'] as const)];
  void links[index]![service].stall(directions, seconds * 1000, end);
  const detail = `of worker ${index}, ${directions.join(' and ')}, ${seconds} s, then ${end}`;
  return { deed: 'stall', of: service, detail };
};

const KAFKA_KINDS = [
  'InitProducerId',
  'AddOffsetsToTxn',
  'TxnOffsetCommit',
  'AddPartitionsToTxn',
  'Produce',
  'EndTxn',
];
const LOST_WITHIN_MS = 8_000;

/** Whichever worker's message comes first. */
const lose =
  (service: 'kafka' | 'postgres', kind: string, direction: Direction): Disturbance =>
  async ({ links }, random) => {
    const effect = random.oneOf(['cut', 'cut', 'silence'] as const);
    const loss = new Loss({ kind, direction, effect, after: random.between(0, 2) });
    for (const link of links) link[service].arm(loss);
    if (!(await loss.within(LOST_WITHIN_MS))) return undefined;
    return { deed: `lost ${direction}`, of: kind, detail: effect };
  };

const losses = (['request', 'response'] as const).flatMap((direction) => [
  ...KAFKA_KINDS.map((kind) => lose('kafka', kind, direction)),
  lose('postgres', 'COMMIT', direction),
]);

const repeated = (times: number, disturbance: Disturbance) => Array<Disturbance>(times).fill(disturbance);

/**
 * Two rows of faults go on at the same time, one with the services and one with workers and their connections. Each is
 * dealt from its deck: everything in it happens once, in random order, before anything happens again.
 */
export const decks = {
  services: {
    cards: [
      ...repeated(2, kill('kafka')),
      ...repeated(2, kill('postgres')),
      ...repeated(2, kill('temporal')),
      freeze('kafka'),
      freeze('postgres'),
      freeze('temporal'),
    ],
    pauseMs: [4_000, 12_000],
  },
  workers: {
    cards: [
      ...repeated(8, killWorker),
      ...repeated(3, freezeWorker),
      ...repeated(3, cut),
      ...repeated(3, stall),
      ...losses,
    ],
    pauseMs: [500, 4_000],
  },
} satisfies Record<string, { cards: Disturbance[]; pauseMs: [number, number] }>;

/** A fault proves little if it meets nobody at work. On a slow machine recovery from the last one takes its time. */
const AT_WORK_WITHIN_MS = 20_000;

/** Waits until rows have been delivered since the last look, though not for ever; returns the new count. */
async function untilAtWork(scene: Scene, last: number, until: AbortSignal): Promise<number> {
  const deadline = Date.now() + AT_WORK_WITHIN_MS;
  let delivered = last;
  while (delivered <= last && !until.aborted && Date.now() < deadline) {
    await delay(200);
    delivered = await scene.delivered().catch(() => last);
  }
  return delivered;
}

/** Deals from a deck until `until`, and hears of every fault that happened. */
export async function disturb(
  { cards, pauseMs }: (typeof decks)[keyof typeof decks],
  scene: Scene,
  random: Random,
  until: AbortSignal,
  happened: (fault: Fault) => void,
): Promise<void> {
  let dealt: Disturbance[] = [];
  for (let delivered = 0; ; ) {
    await delay(random.between(pauseMs[0]!, pauseMs[1]!), undefined, { signal: until }).catch(() => {});
    delivered = await untilAtWork(scene, delivered, until);
    if (until.aborted) return;
    if (dealt.length === 0) dealt = random.shuffled(cards);
    const fault = await dealt.pop()!(scene, random);
    if (fault) happened(fault);
  }
}
