import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { Client, Connection } from '@temporalio/client';
import { msToTs } from '@temporalio/common/lib/time.js';
import { OrchestratorClient } from '../../src/client.ts';
import { eventually } from './eventually.ts';
import { testStack } from './stack.ts';

/** A namespace of the test's own: workflow ids are fixed names, and every test needs its own relays. */
export async function temporalNamespace(): Promise<
  { client: Client; orchestrator: OrchestratorClient; namespace: string } & AsyncDisposable
> {
  const connection = await Connection.connect({ address: testStack().env().SA01_TEMPORAL_HOST! });
  const namespace = `test-${crypto.randomUUID()}`;
  const workflowExecutionRetentionPeriod = msToTs('1 day');
  await connection.workflowService.registerNamespace({ namespace, workflowExecutionRetentionPeriod });
  const client = new Client({ connection, namespace });
  // A new namespace is known to the server's caches a moment later.
  await eventually('the namespace', () => client.workflow.count().then(() => true));
  return {
    client,
    orchestrator: new OrchestratorClient(client),
    namespace,
    [Symbol.asyncDispose]: () => connection.close(),
  };
}
export interface WorkerProcess extends AsyncDisposable {
  process: ChildProcess;
  metricsUrl: string;
  output(): string;
  /** Sends the signal and waits for the end; the exit code, or the signal's name. */
  end(signal?: 'SIGTERM' | 'SIGKILL'): Promise<number | string>;
}

/** `npm start`, as its own process on the run's stack. Not waited for: see `ready`. */
export async function startWorker(env: Record<string, string>): Promise<WorkerProcess> {
  const port = await freePort();
  const child = spawn(process.execPath, ['--disable-warning=TimeoutNegativeWarning', 'src/worker.ts'], {
    env: { ...process.env, ...testStack().env(), SA01_METRICS_ADDRESS: `127.0.0.1:${port}`, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  child.stderr.on('data', (chunk) => (output += chunk));
  const end = async (signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM') => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill(signal);
      await once(child, 'exit');
    }
    return child.exitCode ?? child.signalCode!;
  };
  return {
    process: child,
    metricsUrl: `http://127.0.0.1:${port}`,
    output: () => output,
    end,
    async [Symbol.asyncDispose]() {
      await end('SIGKILL');
    },
  };
}

/** Waits until the worker polls Temporal. */
export async function ready(worker: WorkerProcess): Promise<void> {
  await eventually('the worker to be ready', async () => {
    if (worker.process.exitCode !== null) throw new Error(`the worker ended: ${worker.output()}`);
    return (await fetch(`${worker.metricsUrl}/readyz`)).ok;
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  return port;
}
