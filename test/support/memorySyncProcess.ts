// A worker with the memory sync only, on the run's Temporal, until it is killed.
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { pino } from 'pino';
import { createMemoryActivities, createMemoryHurryActivities } from '../../src/activities/memory.ts';
import { MEMORY_CHANNEL } from '../../src/database/memoryBook.ts';
import { OutboxWakeUps } from '../../src/database/outboxWakeUps.ts';
import { openPool } from '../../src/database/postgres.ts';
import { memoryTaskQueue } from '../../src/domain/memories.ts';
import { SomaBrain } from '../../src/somabrain/client.ts';
import { workflowBundle } from '../../src/workflowBundle.ts';
import { testStack } from './stack.ts';

// That it starts and is killed is no news.
Runtime.install({ logger: new DefaultLogger('ERROR') });

const { url, brainUrl, namespace, taskQueue } = JSON.parse(process.env.MEMORY_SYNC!) as Record<
  string,
  string
>;
const address = testStack().env().SA01_TEMPORAL_HOST!;
const connection = await NativeConnection.connect({ address });
const temporal = new Client({ connection: await Connection.connect({ address }), namespace: namespace! });
const pool = openPool(url!);
const common = { connection, namespace: namespace!, maxHeartbeatThrottleInterval: '1 second' } as const;
const workers = [
  await Worker.create({
    ...common,
    taskQueue: taskQueue!,
    workflowBundle: await workflowBundle(),
    activities: createMemoryHurryActivities({ pool }),
  }),
  await Worker.create({
    ...common,
    taskQueue: memoryTaskQueue(taskQueue!),
    activities: createMemoryActivities({
      databaseUrl: url!,
      pool,
      temporal,
      store: new SomaBrain({ url: brainUrl! }),
      wakeUps: new OutboxWakeUps(url!, MEMORY_CHANNEL),
      owner: `process ${process.pid}`,
      logger: pino({ level: process.env.TEST_LOG_LEVEL ?? 'warn' }),
    }),
    maxConcurrentActivityTaskExecutions: 1,
  }),
];
await Promise.all(workers.map((worker) => worker.run()));
