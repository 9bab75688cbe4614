import type { TestDatabase } from '../../test/support/database.ts';
import { eventually } from '../../test/support/eventually.ts';
import { delivered, fillOutbox } from './rows.ts';
import { relayDeployment } from './workers.ts';

/** Something that carries rows from a database of its own to Kafka, and can be stopped and resumed. */
export interface Delivery extends AsyncDisposable {
  database: TestDatabase;
  /** The first row's; later ones may have others. */
  topic: string;
  /** The process that does it. */
  pid: number;
  /** What is written from now on waits. */
  stop(): Promise<void>;
  resume(): Promise<void>;
}

/** A real worker with `shards` relays: it has delivered its first row and is stopped, by a pause of each relay. */
export async function relayDelivery(shards: number): Promise<Delivery> {
  await using undo = new AsyncDisposableStack();
  const { database, topic, orchestrator, start } = undo.use(await relayDeployment(shards));
  const relays = Array.from({ length: shards }, (_, shard) => orchestrator.outboxRelay(shard));
  const worker = await start();
  await fillOutbox(database.client, topic, 1);
  await eventually('the first row', async () => (await delivered(database.client)) === 1);
  const stop = async () => {
    for (const relay of relays) await relay.pause();
    for (const relay of relays)
      await eventually('the pause', async () => (await relay.status()).state === 'paused');
  };
  await stop();
  const kept = undo.move();
  return {
    database,
    topic,
    pid: worker.process.pid!,
    stop,
    async resume() {
      for (const relay of relays) await relay.resume();
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
