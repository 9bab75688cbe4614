import { setTimeout as delay } from 'node:timers/promises';
import { OrchestratorClient, type OutboxRelayHandle } from '../client.ts';
import { countUnsent, lastSeq, type Unsent } from '../database/outboxRepair.ts';
import { describeError } from '../domain/errors.ts';
import { openTemporal } from '../resources.ts';
import { contradiction, readBooks } from './books.ts';
import { closeShards, stopped } from './closing.ts';
import { assertShard, type CommandContext, refused, resumeCommand } from './command.ts';

const LOOK_MS = 500;
const PROGRESS_MS = 5_000;

/**
 * Empties a shard for maintenance: waits, for as long as it takes, until what is unsent now is delivered, pauses the
 * relay, and leaves no batch open. What waits for a parked message is counted and not waited for.
 * @throws OrchestratorError shard_stopped, command_refused where the relay is paused with rows to deliver, unknown_shard
 */
export async function drain(context: CommandContext, shard: number): Promise<void> {
  const { config, deployment, client, say } = context;
  assertShard(deployment, shard);
  const temporal = await openTemporal(config);
  try {
    const relay = new OrchestratorClient(temporal, config.taskQueue).outboxRelay(shard);
    const last = await lastSeq(client);
    const waiting = await untilDelivered(context, shard, relay, last);
    await relay.pause();
    await untilPaused(context, shard, relay);
    await closeShards(context, { command: `drain ${shard}`, shards: [shard] });
    say(`shard ${shard} is empty and its relay is paused; rows that come now wait. No batch is open.`);
    if (waiting > 0) say(`${waiting} rows are parked or wait behind a parked one`);
    say(`To go on: ${resumeCommand(shard)}`);
  } finally {
    await temporal.connection.close();
  }
}

/** Returns how many rows wait for a parked message. */
async function untilDelivered(
  context: CommandContext,
  shard: number,
  relay: OutboxRelayHandle,
  last: string,
): Promise<number> {
  const progress = new Progress(context);
  const count = () => countUnsent(context.client, { shard, shards: context.deployment.outboxShards }, last);
  for (let unsent: Unsent = await count(); ; unsent = await count()) {
    if (unsent.due === 0) return unsent.waiting;
    progress.say(`shard ${shard}: ${unsent.due} rows to deliver`);
    await assertDelivering(context, shard, relay, progress);
    await delay(LOOK_MS);
  }
}

async function assertDelivering(
  context: CommandContext,
  shard: number,
  relay: OutboxRelayHandle,
  progress: Progress,
): Promise<void> {
  if ((await stateOf(relay, progress)) !== 'paused') return;
  const reason = contradiction(await readBooks(context, shard));
  if (reason !== undefined) throw stopped(shard, reason);
  throw refused(`shard ${shard} is paused with rows to deliver, let it go on first: ${resumeCommand(shard)}`);
}

async function untilPaused(context: CommandContext, shard: number, relay: OutboxRelayHandle): Promise<void> {
  const progress = new Progress(context);
  while ((await stateOf(relay, progress)) !== 'paused') {
    progress.say(`shard ${shard}: waiting for its batch under way`);
    await delay(LOOK_MS);
  }
}

/** Undefined while no worker is there to answer. */
async function stateOf(relay: OutboxRelayHandle, progress: Progress) {
  try {
    return (await relay.status()).state;
  } catch (error) {
    progress.say(`the relay does not answer: ${describeError(error)}`);
    return undefined;
  }
}

/** A line now and then. */
class Progress {
  private readonly context: CommandContext;
  private saidAt = 0;

  constructor(context: CommandContext) {
    this.context = context;
  }

  say(line: string): void {
    if (Date.now() - this.saidAt < PROGRESS_MS) return;
    this.saidAt = Date.now();
    this.context.say(line);
  }
}
