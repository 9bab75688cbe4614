// `npm run dev`: the embedded stack on the published ports and a worker on it, until Ctrl-C.
import { once } from 'node:events';
import path from 'node:path';
import { backupEnvironment } from '../stack/backups.ts';
import { identify, isAlive, type ProcessId, readRecord, terminate, writeRecord } from '../stack/processes.ts';
import { Stack, StackError } from '../stack/stack.ts';
import { SomaBrainStandIn } from '../stack/standIns/somabrain.ts';
import { WorkerProcess } from '../stack/workerProcess.ts';

/** A worker and the `npm run dev` that started it. */
interface WorkerRecord {
  worker: ProcessId | undefined;
  owner: ProcessId | undefined;
}

const stack = new Stack();
const recordFile = path.join(stack.directory, 'worker.process.json');
const logFile = path.join(stack.directory, 'worker.log');

/** Ends the worker of an earlier run that was killed before it could do so itself. */
async function endLeftover(): Promise<void> {
  const { worker, owner } = readRecord<WorkerRecord>(recordFile) ?? {};
  if (owner && isAlive(owner)) throw new StackError(`npm run dev runs already (process ${owner.pid}).`);
  if (worker && isAlive(worker)) await terminate(worker, 'SIGTERM', 5_000);
}

async function startWorker(somabrainUrl: string, backups: Record<string, string>): Promise<WorkerProcess> {
  const worker = new WorkerProcess({
    env: { ...stack.env(), ...backups, SA01_SOMABRAIN_URL: somabrainUrl },
    logFile,
  });
  const record: WorkerRecord = { worker: identify(worker.process.pid!), owner: identify(process.pid) };
  writeRecord(recordFile, record);
  await worker.ready();
  return worker;
}

function printAddresses(
  { metricsAddress }: WorkerProcess,
  somabrainUrl: string,
  backups: Record<string, string>,
): void {
  const { kafka, redis, temporal, temporalUi, s3 } = stack.ports;
  console.log(`
  Temporal UI   http://localhost:${temporalUi}
  Temporal      localhost:${temporal}
  PostgreSQL    ${stack.env().SA01_DATABASE_URL}
  Kafka         localhost:${kafka}
  Redis         redis://localhost:${redis}/0
  S3            http://localhost:${s3}
  SomaBrain     ${somabrainUrl}   (a stand-in)
  backups       ${backups.SA01_BACKUP_DESTINATION ?? 'none'}
  metrics       http://${metricsAddress}/metrics   (/livez, /readyz)
  worker's log  ${logFile}

  Try, in another terminal:
    eval "$(npm run --silent stack -- env)"                                    # puts temporal on the PATH
    npm run insert -- 1000                                                     # 1000 rows by plain SQL
    temporal workflow query --workflow-id outbox-relay-0 --type status
    temporal workflow query --workflow-id health-check-cycle --type status     # after "npm run stack -- stop redis", too
    temporal schedule trigger --schedule-id somaagent-backup-database          # "npm run restore -- list" shows it

  Ctrl-C stops the worker and the stack; the data stays.
`);
}

try {
  await endLeftover();
  await stack.start();
  await using somabrain = new SomaBrainStandIn();
  await somabrain.listen();
  const backups = await backupEnvironment(stack);
  const worker = await startWorker(somabrain.url, backups);
  printAddresses(worker, somabrain.url, backups);
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
