// The health component backup_service: what the catalogue says of backups and drills.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createRestoreDrillActivities } from '../../src/activities/restoreDrills.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { DrillRecord } from '../../src/database/restoreDrills.ts';
import { outboxDatabase, type TestDatabase } from '../support/database.ts';
import { Cycles, everything, UP } from '../support/healthCycles.ts';
import { probeTarget } from '../support/probes.ts';

const drill: DrillRecord = {
  id: 'drill-1',
  backup: 'a',
  type: 'database',
  source: 'core',
  destination: 'file:///backups',
  startedAt: '2026-01-31T12:00:00.000Z',
  endedAt: '2026-01-31T12:01:00.000Z',
  passed: false,
  evidence: null,
  error: 'drill_failed: public.a: 3 backed up, 2 restored',
};

const probe = ({ url }: TestDatabase, maxAgeHours = 50) =>
  probeTarget({ kind: 'backups', url, source: 'core', maxAgeHours });

/** A verified backup, an hour old by the clock of Postgres. */
const backedUp = ({ client }: TestDatabase) =>
  client.query(
    `INSERT INTO orchestrator.backup
       (id, idempotency_key, type, source, destination, metadata, state, started_at, ended_at, address, manifest)
     VALUES ('a', 'a', 'database', 'core', 'file:///backups', '{}', 'verified', now(), now() - interval '1 hour', '{}', '{}')`,
  );

test('Backups are well, and at least moderate when they are old, with the reason', async () => {
  await using database = await outboxDatabase();
  await backedUp(database);
  const { seconds, ...well } = await probe(database);
  assert.deepEqual(well, { outcome: 'up' });
  assert.ok(seconds > 0);
  await database.client.query(`UPDATE orchestrator.backup SET ended_at = now() - interval '3 hours'`);
  const { seconds: _, ...stale } = await probe(database, 2);
  const error = 'no verified backup of core for 2 h: the last good one is 3 h old';
  assert.deepEqual(stale, { outcome: 'up', atLeast: 'moderate', error });
});

test('A drill that fails is told on backup.events, and by the health cycle, until another one passes', async () => {
  await using database = await outboxDatabase();
  await backedUp(database);
  const pool = openPool(database.url);
  const { recordDrill } = createRestoreDrillActivities({ pool });
  const record = (changes: Partial<DrillRecord>) =>
    new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') }).run(recordDrill, {
      ...drill,
      ...changes,
    });
  const cycles = new Cycles();
  const threeCycles = async () => {
    const backup_service = await probe(database);
    return [1, 2, 3].flatMap(() => cycles.add(everything(UP, { backup_service })));
  };
  assert.deepEqual(await threeCycles(), []);

  await record({});
  const { rows } = await database.client.query(
    `SELECT payload->>'event' AS event, payload->>'error' AS error, headers->>'event_type' AS header
     FROM core_outboxmessage WHERE topic = 'backup.events'`,
  );
  assert.deepEqual(rows, [{ event: 'drill.failed', error: drill.error, header: 'drill.failed' }]);
  assert.deepEqual(await threeCycles(), ['backup_service failure']);
  const { standing, last } = cycles.components.backup_service;
  assert.deepEqual(
    [standing, last?.error],
    [{ level: 2, suppressedBy: [] }, `the last restore drill of core failed: ${drill.error}`],
  );

  await record({ id: 'drill-2', endedAt: '2026-02-07T12:00:00.000Z', passed: true, error: null });
  assert.deepEqual(await threeCycles(), ['backup_service recovery']);
  await pool.end();
});
