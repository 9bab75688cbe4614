import assert from 'node:assert/strict';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { readByJava } from '../support/javaConsumer.ts';
import { type Received, uniqueTopic } from '../support/kafka.ts';
import { insertRows } from '../support/outbox.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';
import { assertAgreement, queryOnce } from './agreement.ts';
import { decks, disturb, type Scene } from './disturbances.ts';
import { type Links, openLinks } from './links.ts';
import { Random } from './random.ts';
import { describeFault, Tally } from './tally.ts';
import { type CommittedRow, judge, type Verdict } from './verdict.ts';
import { WRITER, write } from './writers.ts';

const SHARDS = 2;
const WORKERS = 2;
const WRITERS = 4;
/** Enough to fall into every partition. */
const CLOSING_KEYS = Array.from({ length: 80 }, (_, index) => `closing-${index}`);

export interface RoundResult {
  verdict: Verdict;
  faults: Tally;
  /** How often a shard was taken over, and how many rows were delivered while the faults went on. */
  takeovers: number;
  underFaults: number;
}

/**
 * One round: writers write and faults happen for `seconds`, then everything is put right and looked at. The seed
 * decides which faults come in which order. Rejects where a shard does not recover, or where table, journal, status
 * and metrics tell different stories.
 */
export async function runRound(
  seed: number,
  seconds: number,
  say: (line: string) => void,
): Promise<RoundResult> {
  await using stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const namespace = stack.use(await temporalNamespace());
  const topic = uniqueTopic('faults');
  const scene = await setUp(database.url, namespace.name, stack);
  try {
    const faults = await disturbedWriting(scene, { url: database.url, topic, seed, seconds, say });
    await putRight(scene);
    const underFaults = await scene.delivered();
    await eventually('the last commits', () => areWritersGone(database.url));
    const close = async () => {
      await insertRows(
        await database.connect(),
        CLOSING_KEYS.map((key) => ({ topic, key })),
      );
      return CLOSING_KEYS.length;
    };
    await assertAgreement({ url: database.url, namespace, workers: scene.workers, shards: SHARDS, close });
    const verdict = judge(await readByJava(topic, isClosed), await committedRows(database.url));
    return { verdict, faults, takeovers: await journalSum(database.url, 'epoch'), underFaults };
  } catch (error) {
    throw new Error(await evidence(scene, database.url), { cause: error });
  }
}

async function setUp(url: string, namespace: string, stack: AsyncDisposableStack): Promise<Scene> {
  const links: Links[] = [];
  for (let index = 0; index < WORKERS; index += 1) links.push(stack.use(await openLinks(url)));
  const start = (index: number) =>
    startWorker({
      ...links[index]!.env,
      TEMPORAL_NAMESPACE: namespace,
      SA01_OUTBOX_SHARDS: String(SHARDS),
    });
  const scene: Scene = {
    stack: testStack(),
    workers: [],
    links,
    startWorker: start,
    delivered: () => journalSum(url, 'delivered_total'),
  };
  stack.defer(async () => {
    for (const worker of scene.workers) await worker.end('SIGKILL');
  });
  for (const index of links.keys()) scene.workers.push(await start(index));
  await scene.workers[0]!.ready();
  return scene;
}

interface Writing {
  url: string;
  topic: string;
  seed: number;
  seconds: number;
  say: (line: string) => void;
}

async function disturbedWriting(scene: Scene, { url, topic, seed, seconds, say }: Writing): Promise<Tally> {
  const faults = new Tally();
  const began = Date.now();
  const until = AbortSignal.timeout(seconds * 1000);
  const writing = Array.from({ length: WRITERS }, (_, index) =>
    write({ url, topic, name: `writer-${index}`, random: new Random(seed * 100 + index), until }),
  );
  const disturbing = Object.values(decks).map((deck, index) =>
    disturb(deck, scene, new Random(seed * 100 + 50 + index), until, (fault) => {
      faults.add(fault);
      say(`${((Date.now() - began) / 1000).toFixed(0).padStart(4)} s  ${describeFault(fault)}`);
      for (const { ended, output } of scene.workers)
        assert.ok(!ended, `a worker ended by itself: ${output.slice(-2_000)}`);
    }),
  );
  await Promise.all([...disturbing, ...writing]);
  return faults;
}

/** All workers awake, all services up. */
async function putRight({ stack, workers }: Scene): Promise<void> {
  for (const { process } of workers) process.kill('SIGCONT');
  await stack.start(['kafka', 'postgres', 'temporal']);
}

/** A commit whose answer was lost may still be under way in the server. */
async function areWritersGone(url: string): Promise<boolean> {
  const writers = await queryOnce(url, `SELECT FROM pg_stat_activity WHERE application_name = '${WRITER}'`);
  return writers.length === 0;
}

/** The table is the truth about what was committed. */
const committedRows = (url: string): Promise<CommittedRow[]> =>
  queryOnce(
    url,
    'SELECT id, topic, partition_key AS key, payload FROM core_outboxmessage ORDER BY relay_seq',
  );

/** The closing rows are the last of every partition: a row that was sent twice has come twice before them. */
const isClosed = (received: Received[]): boolean =>
  received.at(-1)?.key?.startsWith('closing-') === true &&
  received.filter(({ key }) => key?.startsWith('closing-')).length >= CLOSING_KEYS.length;

/** Over all shards. */
async function journalSum(url: string, column: 'epoch' | 'delivered_total'): Promise<number> {
  const [found] = await queryOnce<{ sum: number }>(
    url,
    `SELECT sum(${column})::int AS sum FROM orchestrator.outbox_journal`,
  );
  return found!.sum;
}

/** What a round that failed leaves for whoever looks into it. */
async function evidence({ workers }: Scene, url: string): Promise<string> {
  const journal = await queryOnce(
    url,
    `SELECT shard, epoch, owner, settled_number, settled_batch, open_batch, delivered_total
     FROM orchestrator.outbox_journal ORDER BY shard`,
  ).catch((error: unknown) => error);
  return [
    'the round failed, see its cause; the journal:',
    JSON.stringify(journal),
    ...workers.map(({ output }, index) => `the last words of worker ${index}:\n${output.slice(-4_000)}`),
  ].join('\n');
}
