import type { WorkerProcess } from '../../stack/workerProcess.ts';
import { outboxDatabase, type TestDatabase } from '../../test/support/database.ts';
import { startWorker, type TestNamespace, temporalNamespace } from '../../test/support/worker.ts';
import { newTopic } from './topics.ts';

export interface RelayDeployment extends AsyncDisposable {
  database: TestDatabase;
  topic: string;
  orchestrator: TestNamespace['orchestrator'];
  temporal: TestNamespace['client'];
  start(): Promise<WorkerProcess>;
}

/** A database, a namespace and a topic of one's own, for one real worker process with `shards` relays. */
export async function relayDeployment(shards: number): Promise<RelayDeployment> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await outboxDatabase(shards));
  const { name: namespace, orchestrator, client: temporal } = undo.use(await temporalNamespace());
  const kept = undo.move();
  const start = async () => {
    const worker = kept.use(
      await startWorker({
        SA01_DATABASE_URL: database.url,
        TEMPORAL_NAMESPACE: namespace,
        SA01_OUTBOX_SHARDS: String(shards),
        SA01_LOG_LEVEL: 'warn',
      }),
    );
    await worker.ready();
    return worker;
  };
  return {
    database,
    topic: await newTopic(),
    orchestrator,
    temporal,
    start,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
