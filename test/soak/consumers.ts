// Messages of three topics, one in twenty malformed, while the process that consumes them is killed with -9 and the
// broker is restarted.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Message } from 'kafkajs';
import type pg from 'pg';
import { consumerGroup } from '../../src/consumers.ts';
import type { ConsumedTopic } from '../../src/domain/topicMessages.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testKafka, uniqueTopic } from '../support/kafka.ts';
import { testStack } from '../support/stack.ts';

const PORTION = 50;
const PARTITIONS = 3;
const MALFORMED_EACH = 20;
const TWICE_EACH = 50;

export interface ConsumersVerdict {
  good: number;
  malformed: number;
  /** Good messages without an owner; owners' messages that nobody sent. */
  lost: number;
  strangers: number;
  /** Malformed messages that have a letter; some have two records, where the producer of this test sent again. */
  buried: number;
  letters: number;
  /** Letters of one and the same record, beyond the first. */
  doubleLetters: number;
  /** Messages for the `.dlq` topics. */
  told: number;
  /** Records that their owner got more than once, and knew again. */
  handedAgain: number;
  lag: number;
}

export const holds = (verdict: ConsumersVerdict): boolean => {
  const { lost, strangers, buried, letters, malformed, doubleLetters, told, lag } = verdict;
  return lost + strangers + doubleLetters + lag === 0 && buried === malformed && told === letters;
};

interface Scene {
  env: string;
  topics: Record<ConsumedTopic, string>;
  client: pg.Client;
  deploymentId: string;
  consuming: ChildProcess;
  say(line: string): void;
}

interface Sent {
  topic: string;
  message: Message;
  /** Undefined: it cannot be understood. */
  key: string | undefined;
}

/** Kills so often while each half of the messages comes in; the broker is restarted between the halves. */
export async function runConsumers(
  messages: number,
  killsEachHalf: [number, number],
  say: (line: string) => void,
): Promise<ConsumersVerdict> {
  await using database = await outboxDatabase();
  await database.client.query('CREATE TABLE owned (key text PRIMARY KEY, handed integer NOT NULL)');
  const topics: Scene['topics'] = {
    'somabrain.memory.remember': uniqueTopic('memory'),
    'upload.retry': uniqueTopic('upload'),
    'backup.tasks': uniqueTopic('backup'),
  };
  const deploymentId = database.deployment.id;
  const env = JSON.stringify({ url: database.url, deploymentId, topics });
  const scene: Scene = { env, topics, client: database.client, deploymentId, consuming: start(env), say };
  try {
    const all = Array.from({ length: messages }, (_, number) => messageOf(number, topics));
    const half = Math.ceil(messages / 2);
    const halves = [all.slice(0, half), all.slice(half)] as const;
    await eventually('the topics', () => topicsAreThere(Object.values(topics)));
    await Promise.all([send(halves[0]), killAt(scene, killsEachHalf[0], 0, half)]);
    await restartBroker(scene);
    await Promise.all([send(halves[1]), killAt(scene, killsEachHalf[1], half, messages)]);
    const lag = () => groupLag(scene);
    await eventually('no lag', async () => (await lag()) === 0, { withinMs: 180_000, everyMs: 250 });
    return await judge(scene, all, await lag());
  } finally {
    scene.consuming.kill('SIGKILL');
  }
}

function start(CONSUMING: string): ChildProcess {
  const options = ['--disable-warning=TimeoutNegativeWarning', 'test/support/consumingProcess.ts'];
  return spawn(process.execPath, options, { env: { ...process.env, CONSUMING }, stdio: 'inherit' });
}

const kinds: ConsumedTopic[] = ['somabrain.memory.remember', 'upload.retry', 'backup.tasks'];

function messageOf(number: number, topics: Scene['topics']): Sent {
  const topic = topics[kinds[number % kinds.length]!];
  const malformed = number % MALFORMED_EACH === MALFORMED_EACH - 1;
  const message = { partition: number % PARTITIONS, value: '' as Message['value'] };
  if (malformed) {
    message.value = POISON[Math.floor(number / MALFORMED_EACH) % POISON.length]!;
    return { topic, message: { ...message, headers: { number: String(number) } }, key: undefined };
  }
  const tenant = `tenant-${number % 40}`;
  const { value, key } = [
    {
      value: { memory_id: `m-${number}`, tenant_id: tenant, payload: { number } },
      key: `memory:${tenant}:m-${number}`,
    },
    {
      value: { filename: `f-${number}`, size: 9, data_b64: null, data_ref: `spool/${number}` },
      key: undefined,
    },
    {
      value: { type: 'files', source: `s-${number}`, queued_at: '2026-01-31T12:00:00Z' },
      key: `backup:files:s-${number}:1769860800`,
    },
  ][number % kinds.length]!;
  message.value = JSON.stringify(value);
  if (key !== undefined) return { topic, message, key };
  const own = `upload:own:${number}`;
  return { topic, message: { ...message, headers: { idempotency_key: own } }, key: own };
}

const POISON: Message['value'][] = [
  Buffer.from([0xff, 0xfe, 0x00]),
  '',
  null,
  '['.repeat(10_000) + ']'.repeat(10_000),
  '{"a": 1e999}',
  '{"a": "\\u0000"}',
  '[]',
  '{"tenant_id": 7, "filename": 7, "type": 7}',
];

/** All of them, in order, and the first of each fifty twice. */
async function send(all: Sent[]): Promise<void> {
  const producer = testKafka().producer();
  await producer.connect();
  const again = (sent: Sent, index: number) =>
    index % TWICE_EACH === 0 && sent.key !== undefined ? [sent, sent] : [sent];
  for (let from = 0; from < all.length; from += PORTION) {
    const byTopic = Map.groupBy(all.slice(from, from + PORTION).flatMap(again), ({ topic }) => topic);
    const topicMessages = [...byTopic].map(([topic, sent]) => ({
      topic,
      messages: sent.map(({ message }) => message),
    }));
    await producer.sendBatch({ topicMessages });
    await delay(5);
  }
  await producer.disconnect();
}

/** Kills the process at random moments between two counts of owned messages, and starts the next. */
async function killAt(scene: Scene, kills: number, from: number, to: number): Promise<void> {
  const room = (to - from) / (kills + 1);
  for (let kill = 0; kill < kills; kill += 1) {
    const target = from + Math.floor(room * (kill + 0.2 + Math.random() * 0.8));
    await eventually(`${target} owned messages`, async () => (await countOwned(scene)) >= target * 0.95, {
      withinMs: 120_000,
      everyMs: 5,
    });
    const closed = once(scene.consuming, 'close');
    scene.consuming.kill('SIGKILL');
    await closed;
    scene.say(`killed with -9 when ${await countOwned(scene)} messages were owned`);
    scene.consuming = start(scene.env);
  }
}

async function restartBroker({ say }: Scene): Promise<void> {
  await testStack().stop(['kafka']);
  await testStack().start(['kafka']);
  say('the broker was restarted');
}

async function countOwned({ client }: Scene): Promise<number> {
  const { rows } = await client.query<{ count: number }>(
    'SELECT (SELECT count(*) FROM owned)::int + (SELECT count(*) FROM core_pendingmemory)::int AS count',
  );
  return rows[0]!.count;
}

async function topicsAreThere(topics: string[]): Promise<boolean> {
  const admin = testKafka().admin();
  await admin.connect();
  const existing = await admin.listTopics().finally(() => admin.disconnect());
  return topics.every((topic) => existing.includes(topic));
}

async function groupLag({ topics, deploymentId }: Scene): Promise<number> {
  const admin = testKafka().admin();
  await admin.connect();
  let lag = 0;
  for (const topic of Object.values(topics)) {
    const groupId = consumerGroup(deploymentId, topic);
    const [group] = await admin.fetchOffsets({ groupId, topics: [topic] });
    const passed = new Map(group!.partitions.map(({ partition, offset }) => [partition, Number(offset)]));
    for (const { partition, high } of await admin.fetchTopicOffsets(topic))
      lag += Number(high) - Math.max(0, passed.get(partition)!);
  }
  await admin.disconnect();
  return lag;
}

async function judge({ client }: Scene, all: Sent[], lag: number): Promise<ConsumersVerdict> {
  const { rows } = await client.query<{ key: string; handed: number }>(
    `SELECT key, handed FROM owned UNION ALL SELECT idempotency_key, 1 FROM core_pendingmemory
     UNION ALL SELECT idempotency_key, 1 FROM orchestrator.upload`,
  );
  const owned = new Set(rows.map(({ key }) => key));
  const good = new Set(all.flatMap(({ key }) => key ?? []));
  const {
    rows: [letters],
  } = await client.query<{ letters: number; places: number; buried: number; told: number }>(
    `SELECT count(*)::int AS letters,
       count(DISTINCT (original_topic, payload->'partition', payload->'offset'))::int AS places,
       count(DISTINCT headers->>'number')::int AS buried,
       (SELECT count(*)::int FROM core_outboxmessage WHERE topic LIKE '%.dlq') AS told
     FROM core_deadlettermessage WHERE error_type = 'message_not_understood'`,
  );
  return {
    good: good.size,
    malformed: all.length - good.size,
    lost: [...good].filter((key) => !owned.has(key)).length,
    strangers: rows.length - [...owned].filter((key) => good.has(key)).length,
    buried: letters!.buried,
    letters: letters!.letters,
    doubleLetters: letters!.letters - letters!.places,
    told: letters!.told,
    handedAgain: rows.reduce((sum, { handed }) => sum + handed - 1, 0),
    lag,
  };
}
