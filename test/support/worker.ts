import path from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { msToTs } from '@temporalio/common/lib/time.js';
import { OrchestratorClient } from '../../src/client.ts';
import { freePort } from '../../stack/ports.ts';
import { WorkerProcess } from '../../stack/workerProcess.ts';
import { eventually } from './eventually.ts';
import { testStack } from './stack.ts';

export interface TestNamespace extends AsyncDisposable {
  name: string;
  client: Client;
  orchestrator: OrchestratorClient;
}

/** A namespace of the test's own: workflow ids are fixed names, and every test needs its own relays. */
export async function temporalNamespace(): Promise<TestNamespace> {
  const connection = await Connection.connect({ address: testStack().env().SA01_TEMPORAL_HOST! });
  const name = `test-${crypto.randomUUID()}`;
  await connection.workflowService.registerNamespace({
    namespace: name,
    workflowExecutionRetentionPeriod: msToTs('1 day'),
  });
  const client = new Client({ connection, namespace: name });
  // A new namespace is known to the server's caches a moment later.
  await eventually('the namespace', () => client.workflow.count().then(() => true));
  return {
    name,
    client,
    orchestrator: new OrchestratorClient(client),
    [Symbol.asyncDispose]: () => connection.close(),
  };
}

/** Checks once an hour: tests that count rows, messages or workflows have no use for notices among them. */
const QUIET_HEALTH = path.join(import.meta.dirname, 'quietHealth.json');

/** `npm start` on the run's stack, with a metrics address of its own. Not waited for: see WorkerProcess.ready. */
export async function startWorker(env: Record<string, string>): Promise<WorkerProcess> {
  const own = {
    SA01_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
    SA01_HEALTH_CONFIG: QUIET_HEALTH,
  };
  return new WorkerProcess({ env: { ...testStack().env(), ...own, ...env } });
}
