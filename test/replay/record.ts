// `node scripts/run.mjs test/replay/record.ts <scenario> <number>`: records the history of a workflow that goes through
// all it can go through, as test/replay/histories/<scenario>-<number>.json. Recorded histories are never changed: a
// change of the workflow that cannot replay them needs `patched`, and a new recording beside the old ones.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { temporalCli } from '../../stack/stack.ts';
import { createTestStack } from '../../stack/testStack.ts';
import { stackEnvironment } from '../support/stack.ts';
import { temporalNamespace } from '../support/worker.ts';
import { runWorkflows } from '../support/workflows.ts';
import { scenarios } from './scenarios.ts';

const [name = '', number = ''] = process.argv.slice(2);
const makeScenario = scenarios[name];
if (!makeScenario || !/^[1-9]\d*$/.test(number))
  throw new Error(`a scenario (${Object.keys(scenarios).join(', ')}) and a number are needed`);
const { type, workflowId, args, activities, drive } = makeScenario();

await using stack = await createTestStack((line) => console.error(line));
await stack.start(['temporal']);
Object.assign(process.env, stackEnvironment(stack));

await using namespace = await temporalNamespace();
await using _workers = await runWorkflows(namespace.name, 'record', activities);
await drive(await namespace.client.workflow.start(type, { workflowId, taskQueue: 'record', args }));

// By the CLI, as anybody would who has a history to add: the SDK's own conversion fails in this version.
const address = stack.env().SA01_TEMPORAL_HOST!;
const shown = ['workflow', 'show', '--workflow-id', workflowId, '--output', 'json'];
const where = ['--address', address, '--namespace', namespace.name];
const printed = execFileSync(await temporalCli(), [...shown, ...where]);
// Stack traces tell where this checkout lies, which is nobody's business and no part of the replay.
const history = printed.toString().replaceAll(`${process.cwd()}/`, '');
writeFileSync(path.join(import.meta.dirname, 'histories', `${name}-${number}.json`), history);
