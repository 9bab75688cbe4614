// A relay that kills its own process with SIGKILL, right before or right after its first batch is committed in Kafka.
import { openPublisher, startRelay } from './relay.ts';

const database = JSON.parse(process.env.DYING_RELAY!);
const [moment] = process.argv.slice(2);
const die = () => {
  process.kill(process.pid, 'SIGKILL');
  return new Promise<never>(() => {});
};

startRelay(database, 0, {
  openPublisher: () => {
    const publisher = openPublisher(database.deployment.id, 0);
    return {
      initialise: () => publisher.initialise(),
      publish: async (mark, records) => {
        // The first mark of a new shard is no batch.
        if (records.length === 0) return publisher.publish(mark, records);
        if (moment === 'before-send') await die();
        await publisher.publish(mark, records);
        await die();
      },
      close: () => publisher.close(),
    };
  },
});
