import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { temporalCli } from '../../stack/stack.ts';
import { backupWorld, fill } from '../support/backupWorld.ts';
import { emptyDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { countByStatus } from '../support/outbox.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, type TestNamespace, temporalNamespace } from '../support/worker.ts';

/** The commands of a section of the README, as they stand there. */
function commandsOf(section: string): string[] {
  const [, after = ''] = readFileSync('README.md', 'utf8').split(`\n## ${section}\n`);
  const [, block = ''] = /```sh\n([\s\S]*?)```/.exec(after) ?? [];
  return block
    .replaceAll('\\\n', '')
    .split('\n')
    .filter((line) => /^(temporal|npm) /.test(line));
}

/** Types commands as a person does who has the variables of `npm run stack -- env`. */
async function terminal(database: TestDatabase, { name }: TestNamespace, more: Record<string, string> = {}) {
  const env = {
    ...process.env,
    ...testStack().env(),
    ...more,
    SA01_DATABASE_URL: database.url,
    TEMPORAL_ADDRESS: testStack().env().SA01_TEMPORAL_HOST!,
    TEMPORAL_NAMESPACE: name,
    PATH: `${path.dirname(await temporalCli())}:${process.env.PATH}`,
  };
  return async (command: string | undefined) => {
    const { stdout } = await promisify(execFile)('bash', ['-c', command ?? 'false'], { env });
    return stdout;
  };
}

test('the commands of the tour do what the README says they do', async () => {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const type = await terminal(database, namespace);
  await using worker = await startWorker({
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
  });
  await worker.ready();

  const [list, query, pause, queryAgain, insert, resume, ...rest] = commandsOf('A tour');
  assert.deepEqual(rest, [], 'every command of the tour is typed here');
  await eventually('both relays in the list', async () =>
    /outbox-relay-0[\s\S]*outbox-relay-1|outbox-relay-1[\s\S]*outbox-relay-0/.test(await type(list)),
  );
  await eventually('its status', async () => /"state":"idle"/.test(await type(query)));
  await type(pause);
  await eventually('the status to say "paused"', async () => /"state":"paused"/.test(await type(queryAgain)));
  assert.match(await type(insert), /1000 rows committed/);

  await eventually('the other shard to deliver its own, and the paused one to keep its rows', async () => {
    const { pending = 0, published = 0 } = await countByStatus(database.client);
    const { delivered_total } = await namespace.orchestrator.outboxRelay(1).status();
    return published > 0 && delivered_total === published && pending > 0 && pending + published === 1000;
  });
  await type(resume);
  await eventually(
    'the rest to be delivered',
    async () => (await countByStatus(database.client)).published === 1000,
  );
});

test('and so do those for backups', async () => {
  await using world = await backupWorld();
  const { database, namespace, source } = world;
  await using target = await emptyDatabase();
  await using worker = await startWorker(world.env);
  await worker.ready();
  await fill(database.client, 100);
  const typed = await terminal(database, namespace, world.env);
  const type = (command = '') => typed(command.replace('"somaagent_core"', `"${source}"`));
  const [trigger, backup, status, drill, drilled, list, restore = '', retention, hold = '', ...rest] =
    commandsOf('Backups');
  assert.deepEqual(rest, [], 'every command is typed here');
  await eventually('the Schedule', () => type(trigger).then(() => true));
  await type(backup);
  await eventually('the backup', async () => /"state":"verified"/.test(await type(status)));
  await eventually('both', async () => /^2 backups at /m.test(await type(list)));
  await type(drill);
  await eventually('the drill', async () => /"state":"passed"/.test(await type(drilled)));
  const [, id = ''] = /^(\S+) +database/m.exec(await type(list)) ?? [];
  const into = new URL(target.url).pathname.slice(1);
  await type(restore.replace('<backup>', id).replace('<database>', into));
  assert.equal((await target.client.query('SELECT FROM notes')).rowCount, 100);
  assert.match(await type(retention), new RegExp(`keeps +${id}  the last good one`));
  await type(hold.replace('<backup>', id).replace('<why>', 'audit'));
  assert.match(await type(list), /on hold: audit/);
});
