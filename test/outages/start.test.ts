import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testStack } from '../support/stack.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

test('a worker that is started before its services waits for them and says so', async () => {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  const env = { SA01_DATABASE_URL: database.url, TEMPORAL_NAMESPACE: namespace.name };
  const stack = testStack();
  await stack.stop(['temporal']);
  try {
    await using worker = await startWorker(env);
    await eventually('the log line', () => worker.output.includes('waiting for Temporal'));
    assert.equal(worker.ended, false);
    assert.equal((await fetch(`http://${worker.metricsAddress}/livez`)).status, 200);
    assert.equal((await fetch(`http://${worker.metricsAddress}/readyz`)).status, 503);
    await using impatient = await startWorker(env);
    await eventually('another to wait', () => impatient.output.includes('waiting for Temporal'));
    assert.equal(await impatient.end('SIGTERM'), 0, impatient.output);
    await stack.start(['temporal']);
    await worker.ready();
  } finally {
    await stack.start(['temporal']);
  }
});
