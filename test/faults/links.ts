import { FaultProxy } from '../support/faultProxy.ts';
import { bootstrapServers, kafkaProxy } from '../support/kafkaProxy.ts';
import { postgresProxy, through } from '../support/postgresProxy.ts';
import { testStack } from '../support/stack.ts';

export const linked = ['kafka', 'postgres', 'temporal'] as const;

/** All ways of one worker to the services, so that one worker can lose its network while the other keeps it. */
export interface Links extends AsyncDisposable {
  kafka: FaultProxy;
  postgres: FaultProxy;
  temporal: FaultProxy;
  /** The variables that lead a worker along them. */
  env: Record<string, string>;
}

export async function openLinks(databaseUrl: string): Promise<Links> {
  await using opening = new AsyncDisposableStack();
  const kafka = opening.use(await kafkaProxy());
  const postgres = opening.use(await postgresProxy());
  const temporal = opening.use(await FaultProxy.to(testStack().ports.temporal));
  const opened = opening.move();
  return {
    kafka,
    postgres,
    temporal,
    env: {
      SA01_DATABASE_URL: through(postgres, databaseUrl),
      SA01_KAFKA_BOOTSTRAP_SERVERS: bootstrapServers(kafka).join(),
      SA01_TEMPORAL_HOST: `127.0.0.1:${temporal.port}`,
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}
