// `node scripts/run.mjs test/replay/record.ts <name>`: records the history of a relay that goes through all it can go
// through, as test/replay/histories/<name>.json. Recorded histories are never changed: a change of the workflow that
// cannot replay them needs `patched`, and a new recording beside the old ones.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { ApplicationFailure } from '@temporalio/activity';
import type { OutboxRelayReport } from '../../src/domain/outbox.ts';
import {
  outboxRelay,
  pauseRelaySignal,
  relayReportSignal,
  relayStatusQuery,
  resumeRelaySignal,
} from '../../src/workflows/outbox.ts';
import { temporalCli } from '../../stack/stack.ts';
import { createTestStack } from '../../stack/testStack.ts';
import { eventually } from '../support/eventually.ts';
import { stackEnvironment } from '../support/stack.ts';
import { temporalNamespace } from '../support/worker.ts';
import { beatUntilCancelled, runWorkflows } from '../support/workflows.ts';

const [name] = process.argv.slice(2);
if (!name || !/^[a-z0-9-]+$/.test(name))
  throw new Error('a name of a-z 0-9 - is needed, for example outbox-relay-1');

const report: OutboxRelayReport = {
  state: 'delivering',
  totals: { delivered: 10, batches: 1 },
  parked: 1,
  lastError: null,
};

/** Fails at first, stops the shard at the second run, and runs until it is cancelled after that. */
let runs = 0;
async function relayOutbox(): Promise<OutboxRelayReport> {
  runs += 1;
  if (runs === 1) throw ApplicationFailure.create({ type: 'kafka_unavailable', message: 'no broker' });
  if (runs === 2) return report;
  if (runs === 3) throw ApplicationFailure.nonRetryable('Kafka knows more', 'shard_stopped');
  await beatUntilCancelled();
  return report;
}

await using stack = await createTestStack((line) => console.error(line));
await stack.start(['temporal']);
Object.assign(process.env, stackEnvironment(stack));

await using namespace = await temporalNamespace();
await using _workers = await runWorkflows(namespace.name, 'record', { relayOutbox });

const workflowId = 'outbox-relay-0';
const handle = await namespace.client.workflow.start(outboxRelay, {
  workflowId,
  taskQueue: 'record',
  args: [{ historyLimit: 60 }],
});
const becomes = (state: string) =>
  eventually(state, async () => (await handle.query(relayStatusQuery)).state === state);
await becomes('paused');
await handle.signal(resumeRelaySignal);
await eventually('the fourth run', () => runs === 4);
await handle.signal(relayReportSignal, { ...report, state: 'waiting', lastError: 'kafka_unavailable: x' });
await becomes('waiting');
await handle.signal(pauseRelaySignal);
await becomes('paused');
// By the CLI, as anybody would who has a history to add: the SDK's own conversion fails in this version.
const address = stack.env().SA01_TEMPORAL_HOST!;
const shown = ['workflow', 'show', '--workflow-id', workflowId, '--output', 'json'];
const printed = execFileSync(await temporalCli(), [
  ...shown,
  '--address',
  address,
  '--namespace',
  namespace.name,
]);
// Stack traces tell where this checkout lies, which is nobody's business and no part of the replay.
const history = printed.toString().replaceAll(`${process.cwd()}/`, '');
writeFileSync(path.join(import.meta.dirname, 'histories', `${name}.json`), history);
