import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { temporalCli } from '../../stack/stack.ts';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { countByStatus } from '../support/outbox.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

/** The commands of the README's tour, as they stand there. */
const [, tour = ''] = /## A tour[\s\S]*?```sh\n([\s\S]*?)```/.exec(readFileSync('README.md', 'utf8')) ?? [];
const commands = tour.split('\n').filter((line) => /^(temporal|npm) /.test(line));

test('the commands of the README do what it says they do', async () => {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const env = {
    ...process.env,
    ...testStack().env(),
    SA01_DATABASE_URL: database.url,
    TEMPORAL_ADDRESS: testStack().env().SA01_TEMPORAL_HOST!,
    TEMPORAL_NAMESPACE: namespace.name,
    PATH: `${path.dirname(await temporalCli())}:${process.env.PATH}`,
  };
  const type = async (command: string | undefined) => {
    const { stdout } = await promisify(execFile)('bash', ['-c', command ?? 'false'], { env });
    return stdout;
  };
  await using worker = await startWorker({
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
  });
  await worker.ready();

  const [list, query, pause, queryAgain, insert, resume, ...rest] = commands;
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
