import { setTimeout as delay } from 'node:timers/promises';
import type { Deployment } from '../../src/database/deployment.ts';
import { describeError } from '../../src/domain/errors.ts';
import type { FaultProxy } from './faultProxy.ts';
import { bootstrapServers } from './kafkaProxy.ts';
import { through } from './postgresProxy.ts';
import { openPublisher, type RunningRelay, startRelay } from './relay.ts';

export interface PersistentRelay extends AsyncDisposable {
  /** What ended its runs so far. */
  failures: string[];
  /** Ends its run in good order; the next begins with a takeover. */
  restart(): Promise<void>;
}

/** Temporal's part without Temporal: a relay that fails is started again, however often. */
export function relayPersistently(start: () => RunningRelay): PersistentRelay {
  const failures: string[] = [];
  let relay = start();
  let over = false;
  const running = (async () => {
    while (!over) {
      await relay.done.catch((error: unknown) => failures.push(describeError(error)));
      await delay(20);
      if (!over) relay = start();
    }
  })();
  return {
    failures,
    restart: () => relay.stop(),
    async [Symbol.asyncDispose]() {
      over = true;
      await relay.stop().catch(() => {});
      await running;
    },
  };
}

/** Starts shard 0's relay so that all it says to Kafka and Postgres goes by way of the proxies. */
export function startRelayThrough(
  { kafka, postgres }: { kafka: FaultProxy; postgres: FaultProxy },
  { url, deployment }: { url: string; deployment: Deployment },
): RunningRelay {
  return startRelay({ url: through(postgres, url), deployment }, 0, {
    openPublisher: (shard) => openPublisher(deployment.id, shard, bootstrapServers(kafka)),
  });
}
