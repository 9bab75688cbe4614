import { WorkflowNotFoundError } from '@temporalio/client';
import { MAX_OUTBOX_SHARDS, readDeployment } from '../database/deployment.ts';
import {
  buildPendingIndex,
  dropOtherPendingIndexes,
  lockChange,
  replaceShards,
} from '../database/shardCount.ts';
import { describeError } from '../domain/errors.ts';
import { relayWorkflowId } from '../domain/outbox.ts';
import { openTemporal } from '../resources.ts';
import { contradiction, readBooks } from './books.ts';
import { closeShards, stopped } from './closing.ts';
import type { CommandContext } from './command.ts';

/**
 * Changes the number of shards while writers write and relays deliver: nothing is lost, doubled or reordered. Killed at
 * any point, delivery goes on with the old number or with the new one; the same command again completes it.
 * @throws OrchestratorError shard_stopped, command_refused, deployment_changed, kafka_unavailable, postgres_…
 */
export async function changeShards(context: CommandContext, shards: number): Promise<void> {
  const { client, say } = context;
  await lockChange(client);
  const deployment = (await readDeployment(client)) ?? context.deployment;
  const was = deployment.outboxShards;
  if (was !== shards) await replace({ ...context, deployment }, shards);
  say('dropping the indexes of other numbers of shards');
  await dropOtherPendingIndexes(client, shards);
  await endRelays(context, shards);
  say(
    was === shards ? `there were ${shards} shards already` : `there are ${shards} shards now, before ${was}`,
  );
}

async function replace(context: CommandContext, shards: number): Promise<void> {
  const { client, deployment, logger, say } = context;
  const old = Array.from({ length: deployment.outboxShards }, (_, shard) => shard);
  for (const shard of old) {
    const reason = contradiction(await readBooks(context, shard));
    if (reason !== undefined) throw stopped(shard, reason);
  }
  say(
    `building the index for ${shards} shards; it waits for transactions that are open, and holds up nobody`,
  );
  await buildPendingIndex(client, shards);
  say(`closing ${old.length} old shards: delivery stands still from here`);
  await replaceShards(client, deployment, shards, () =>
    closeShards(context, { command: `shards ${shards}`, shards: old, held: true }),
  );
  const { id } = (await readDeployment(client))!;
  logger.info({ from: deployment, to: { id, outboxShards: shards } }, 'number of shards changed');
  say('done: workers open again within seconds');
}

/** Relays of shards that are no more would end by themselves, but a paused one only when it is resumed. */
async function endRelays({ config, say }: CommandContext, shards: number): Promise<void> {
  try {
    const temporal = await openTemporal(config);
    try {
      for (let shard = shards; shard < MAX_OUTBOX_SHARDS; shard += 1)
        await temporal.workflow
          .getHandle(relayWorkflowId(shard))
          .cancel()
          .catch((error) => {
            if (!(error instanceof WorkflowNotFoundError)) throw error;
          });
    } finally {
      await temporal.connection.close();
    }
  } catch (error) {
    say(
      `the relays of shards that are no more could not be ended, they fail with unknown_shard: ${describeError(error)}`,
    );
  }
}
