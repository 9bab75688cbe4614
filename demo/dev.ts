// `npm run dev`: the embedded stack on the published ports and a worker on it, until Ctrl-C.
import { once } from 'node:events';
import { Stack, StackError } from '../stack/stack.ts';
import { WorkerProcess } from '../stack/workerProcess.ts';

const stack = new Stack();
try {
  await stack.start();
  const logFile = `${stack.directory}/worker.log`;
  const worker = new WorkerProcess({ env: stack.env(), logFile });
  await worker.ready();
  const { kafka, redis, temporal, temporalUi, s3 } = stack.ports;
  console.log(`
  Temporal UI   http://localhost:${temporalUi}
  Temporal      localhost:${temporal}
  PostgreSQL    ${stack.env().SA01_DATABASE_URL}
  Kafka         localhost:${kafka}
  Redis         redis://localhost:${redis}/0
  S3            http://localhost:${s3}
  metrics       http://${worker.metricsAddress}/metrics   (/livez, /readyz)
  worker's log  ${logFile}

  Try, in another terminal:
    eval "$(npm run --silent stack -- env)"                                    # puts temporal on the PATH
    npm run insert -- 1000                                                     # 1000 rows by plain SQL
    temporal workflow query --workflow-id outbox-relay-0 --type status

  Ctrl-C stops the worker and the stack; the data stays.
`);
  const interrupted = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => interrupted.abort());
  await Promise.race([once(worker.process, 'exit'), once(interrupted.signal, 'abort')]);
  if (worker.ended) {
    console.error(`the worker ended by itself, see ${logFile}`);
    process.exitCode = 1;
  }
  await worker.end('SIGTERM');
  await stack.stop();
} catch (error) {
  if (!(error instanceof StackError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
