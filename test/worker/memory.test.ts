import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { countMemories, insertMemories, numberedMemories, standInBrain } from '../support/memories.ts';
import { startWorker, temporalNamespace } from '../support/worker.ts';

test('the worker brings memories to SomaBrain, and status, metrics and SQL agree', async () => {
  await using database = await emptyDatabase();
  await using namespace = await temporalNamespace();
  await using brain = await standInBrain({ memories: 503, token: 'secret' });
  await using worker = await startWorker({
    SA01_DATABASE_URL: database.url,
    TEMPORAL_NAMESPACE: namespace.name,
    SA01_SOMABRAIN_URL: brain.url,
    SA01_SOMABRAIN_TOKEN: 'secret',
  });
  await worker.ready();
  const sync = namespace.orchestrator.memorySync();
  await insertMemories(database.client, numberedMemories(10, 20));
  await eventually('the outage', async () => {
    const { state, last_error } = await sync.status();
    return state === 'waiting' && /503/.test(last_error ?? '');
  });
  const metrics = async () => (await fetch(`http://${worker.metricsAddress}/metrics`)).text();
  assert.match(await metrics(), /^memory_pending\S* 200$/m);
  brain.server.behave({ memories: 'store' });
  await sync.syncNow();
  await eventually('all', async () => (await countMemories(database.client)).synced === 200);
  await eventually('the status', async () => {
    const { state, synced_total, pending, last_error } = await sync.status();
    return state === 'idle' && synced_total === 200 && pending === 0 && last_error === null;
  });
  assert.match(await metrics(), /^memory_pending\S* 0$/m);
  await eventually('the counter', async () => /^memory_synced_total\S* 200$/m.test(await metrics()));
  assert.match(await metrics(), /^memory_oldest_pending_seconds\S* 0$/m);
  await sync.pause();
  await eventually('the pause', async () => (await sync.status()).state === 'paused');
  await insertMemories(database.client, [{ tenant: 'a' }]);
  await sync.resume();
  await eventually('the last one', async () => (await countMemories(database.client)).synced === 201);
  assert.equal(await worker.end(), 0, worker.output);
  assert.ok(!worker.output.includes('secret'));
});
