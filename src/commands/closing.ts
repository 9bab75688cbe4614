import type pg from 'pg';
import { OutboxJournal } from '../database/outboxJournal.ts';
import { beginAnew, type DeliveredRows, NO_ROWS } from '../database/outboxRepair.ts';
import { connect, disconnect } from '../database/postgres.ts';
import { OrchestratorError } from '../domain/errors.ts';
import { decideTakeover, FIRST_MARK, type Journal, type Mark } from '../domain/outboxTakeover.ts';
import type { OutboxPublisher } from '../kafka/outboxPublisher.ts';
import { type CommandContext, owner } from './command.ts';

/** A shard that a command has taken over: its former relay is fenced on both sides, so its mark is final. */
export interface TakenShard {
  shard: number;
  shards: number;
  client: pg.Client;
  journal: OutboxJournal;
  publisher: OutboxPublisher;
  mark: Mark | undefined;
}

export interface Takeovers {
  /** As whom. */
  command: string;
  shards: number[];
  /** The caller keeps all other takeovers out meanwhile. */
  held?: boolean;
}

/**
 * Takes shards over as a relay does, each first in Postgres and then in Kafka, and hands them to `work`. A relay that
 * still worked finds itself fenced, and takes over in its turn.
 * @throws OrchestratorError deployment_changed, kafka_unavailable, relay_fenced, whatever `work` throws
 */
export async function withShards<T>(
  { config, deployment, openPublisher }: CommandContext,
  { command, shards, held = false }: Takeovers,
  work: (taken: TakenShard[]) => Promise<T>,
): Promise<T> {
  const client = await connect(config.databaseUrl);
  const opened: OutboxPublisher[] = [];
  try {
    const journals: OutboxJournal[] = [];
    for (const shard of shards)
      journals.push(await OutboxJournal.takeOver(client, shard, deployment, owner(command), { held }));
    const initialised = journals.map(async (journal) => {
      const publisher = openPublisher(journal.shard);
      opened.push(publisher);
      const mark = await publisher.initialise();
      return { shard: journal.shard, shards: deployment.outboxShards, client, journal, publisher, mark };
    });
    await Promise.allSettled(initialised);
    return await work(await Promise.all(initialised));
  } finally {
    await Promise.all(opened.map((publisher) => publisher.close()));
    await disconnect(client);
  }
}

/**
 * Brings both sides of a shard to one new state: `delivered` rows are published, `settled` is what was settled before,
 * and behind it an empty batch under a new id is opened, sent and settled. Killed on the way, it is finished by the
 * next relay, because an open batch without rows is one like any other (where Kafka has no mark at all: by a repair).
 */
export async function agreeAnew(
  { client, shard, shards, journal, publisher }: TakenShard,
  settled: Journal['settled'],
  delivered: DeliveredRows,
): Promise<{ number: number; batchId: string; marked: number }> {
  const begun = await beginAnew(client, { shard, shards, epoch: journal.epoch }, settled, delivered);
  await publisher.publish(begun, []);
  await journal.settle({ ...begun, seqs: [] });
  return begun;
}

/**
 * Leaves the shards without an open batch: one that Kafka has is settled, one that it does not have is given back, and an
 * empty one ends each shard. A copy of the database from before does not fit to Kafka after this. Returns the epochs.
 * @throws OrchestratorError shard_stopped before anything is changed, and as `withShards`
 */
export async function closeShards(context: CommandContext, takeovers: Takeovers): Promise<string[]> {
  return withShards(context, takeovers, async (taken) => {
    const closings: (() => Promise<unknown>)[] = [];
    for (const one of taken) closings.push(await closingOf(one));
    for (const close of closings) await close();
    return taken.map(({ journal }) => journal.epoch);
  });
}

async function closingOf(taken: TakenShard): Promise<() => Promise<unknown>> {
  const { shard, mark } = taken;
  const journal = await taken.journal.read();
  const { settled, open } = journal;
  const decision = decideTakeover(journal, mark);
  if (decision.kind === 'stop') throw stopped(shard, decision.reason);
  return async () => {
    if (decision.kind === 'begin') await taken.publisher.publish(FIRST_MARK, []);
    if (decision.kind === 'settle') await taken.journal.settle(open!);
    await agreeAnew(taken, decision.kind === 'settle' ? open! : settled, NO_ROWS);
  };
}

export const stopped = (shard: number, reason: string): OrchestratorError =>
  new OrchestratorError(
    'shard_stopped',
    `shard ${shard}: ${reason}; mend it first: npm run outbox -- repair ${shard}`,
  );
