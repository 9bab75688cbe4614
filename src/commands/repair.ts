import { OrchestratorClient } from '../client.ts';
import { type DeliveredRows, NO_ROWS, unsentAmong, unsentTopics } from '../database/outboxRepair.ts';
import { isPostgresBehind, type RepairChoice, settledInKafka } from '../domain/outboxRepair.ts';
import { decideTakeover, type Journal } from '../domain/outboxTakeover.ts';
import { UUID } from '../domain/uuid.ts';
import { readMessageIds } from '../kafka/outboxComparison.ts';
import { outboxGroup } from '../kafka/outboxMarks.ts';
import { openTemporal } from '../resources.ts';
import { contradiction, readBooks } from './books.ts';
import { agreeAnew, type TakenShard, withShards } from './closing.ts';
import { assertShard, type CommandContext, refused, resumeCommand } from './command.ts';

/**
 * A row is created before it is sent, but by another clock than the one that stamps the record: this much later, at
 * most, may the writer's clock be.
 */
const CLOCK_TOLERANCE_MS = 10 * 60_000;
/**
 * Mends a shard whose books in Postgres and Kafka contradict one another, as the person has chosen, and lets its relay
 * go on. Killed at any point, the same command again completes it, unless the relay has done so.
 * @throws OrchestratorError command_refused where the books agree, unknown_shard, relay_fenced, kafka_unavailable
 */
export async function repair(context: CommandContext, shard: number, choice: RepairChoice): Promise<void> {
  assertShard(context.deployment, shard);
  // A shard that works is not even disturbed.
  if (contradiction(await readBooks(context, shard)) === undefined) throw notStopped(shard);
  await withShards(context, { command: `repair ${shard}`, shards: [shard] }, async ([taken]) => {
    await mend(context, taken!, choice);
  });
  await resume(context, shard);
}

async function mend(context: CommandContext, taken: TakenShard, choice: RepairChoice): Promise<void> {
  const { shard, mark } = taken;
  const { say, logger } = context;
  const journal = await taken.journal.read();
  const decision = decideTakeover(journal, mark);
  if (decision.kind !== 'stop') throw notStopped(shard);
  say(`shard ${shard}: ${decision.reason}`);
  const delivered = await deliveredRows(context, taken, journal, choice);
  const { number, batchId, marked } = await agreeAnew(taken, settledInKafka(mark), delivered);
  logger.info({ shard, choice, journal, mark, marked, number, batchId }, 'shard repaired');
  say(`shard ${shard}: ${marked} rows count as delivered now, what is still pending or parked will be sent`);
  say(`shard ${shard}: both sides agree on batch ${number} (${batchId}), which is empty`);
}

async function deliveredRows(
  context: CommandContext,
  taken: TakenShard,
  journal: Journal,
  choice: RepairChoice,
): Promise<DeliveredRows> {
  switch (choice.kind) {
    case 'resend':
      return NO_ROWS;
    case 'mark-delivered':
      if (choice.before === undefined && isPostgresBehind(journal, taken.mark)) {
        throw refused(
          `shard ${taken.shard}: Kafka knows batches that Postgres does not, so more than the open batch is in doubt: name the time of the older copy by --before, or use --compare`,
        );
      }
      return { ...NO_ROWS, seqs: journal.open?.seqs ?? [], createdBefore: choice.before ?? null };
    case 'compare':
      return { ...NO_ROWS, ids: await idsInKafka(context, taken) };
  }
}

/** The shard's unsent rows that Kafka has, found by the header that every record carries. */
async function idsInKafka(
  { client, kafka, deployment, say }: CommandContext,
  { shard, shards }: TakenShard,
): Promise<string[]> {
  const unsent = await unsentTopics(client, { shard, shards });
  const found = new Set<string>();
  let read = 0;
  await readMessageIds({
    kafka,
    groupPrefix: outboxGroup(deployment.id, shard),
    topics: new Map([...unsent].map(([topic, since]) => [topic, since - CLOCK_TOLERANCE_MS])),
    onMessageIds: async (ids) => {
      read += ids.length;
      // Others may use the header for ids of their own.
      const ours = await unsentAmong(
        client,
        { shard, shards },
        ids.filter((id) => UUID.test(id)),
      );
      for (const id of ours) found.add(id);
    },
  });
  say(
    `shard ${shard}: ${read} records of ${unsent.size} topics read, ${found.size} unsent rows are among them`,
  );
  return [...found];
}

const notStopped = (shard: number) =>
  refused(
    `shard ${shard} is not stopped: Postgres and Kafka agree, there is nothing to mend. If its relay is still paused: ${resumeCommand(shard)}`,
  );

async function resume({ config, say }: CommandContext, shard: number): Promise<void> {
  try {
    const temporal = await openTemporal(config);
    try {
      await new OrchestratorClient(temporal, config.taskQueue).outboxRelay(shard).resume();
    } finally {
      await temporal.connection.close();
    }
    say(`shard ${shard}: its relay goes on`);
  } catch {
    say(`shard ${shard}: its relay could not be told; if it is paused: ${resumeCommand(shard)}`);
  }
}
