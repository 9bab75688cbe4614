import { CancelledFailure, heartbeat, sleep } from '@temporalio/activity';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { backupTaskQueue } from '../../src/domain/backups.ts';
import { memoryTaskQueue } from '../../src/domain/memories.ts';
import { relayTaskQueue } from '../../src/domain/outbox.ts';
import { uploadBytesTaskQueue, uploadTaskQueue } from '../../src/domain/uploads.ts';
import { workflowBundle } from '../../src/workflowBundle.ts';
import { testStack } from './stack.ts';

// Workflows and activities that fail on purpose are no news here.
Runtime.install({ logger: new DefaultLogger('ERROR') });

/** What an idle shard's activity does: beats until it is cancelled. */
export async function beatUntilCancelled(): Promise<void> {
  const beating = setInterval(() => heartbeat(), 50);
  try {
    await sleep('1 hour');
  } catch (error) {
    if (!(error instanceof CancelledFailure)) throw error;
  } finally {
    clearInterval(beating);
  }
}

/** Runs the real workflows on the run's Temporal, with activities of the test's choice on all queues. */
export async function runWorkflows(namespace: string, taskQueue: string, activities: object) {
  const connection = await NativeConnection.connect({ address: testStack().env().SA01_TEMPORAL_HOST! });
  const common = { connection, namespace, maxHeartbeatThrottleInterval: '100 milliseconds' } as const;
  const bundle = await workflowBundle();
  const workers = [
    await Worker.create({ ...common, taskQueue, workflowBundle: bundle, activities }),
    await Worker.create({ ...common, taskQueue: relayTaskQueue(taskQueue), activities }),
    await Worker.create({ ...common, taskQueue: memoryTaskQueue(taskQueue), activities }),
    await Worker.create({ ...common, taskQueue: backupTaskQueue(taskQueue), activities }),
    await Worker.create({
      ...common,
      taskQueue: uploadTaskQueue(taskQueue),
      workflowBundle: bundle,
      activities,
    }),
    await Worker.create({ ...common, taskQueue: uploadBytesTaskQueue(taskQueue), activities }),
  ];
  const running = workers.map((worker) => worker.run());
  return {
    connection,
    async [Symbol.asyncDispose]() {
      for (const worker of workers) worker.shutdown();
      await Promise.all(running);
      await connection.close();
    },
  };
}
