import assert from 'node:assert/strict';
import { test } from 'node:test';
import { recordHealth } from '../../src/database/health.ts';
import { openPool } from '../../src/database/postgres.ts';
import { tiersWorthTrying } from '../../src/database/uploadTiers.ts';
import type { Gate } from '../../src/domain/health.ts';
import { TIER_NAMES } from '../../src/domain/uploads.ts';
import { outboxDatabase } from '../support/database.ts';

const inAnHour = () => new Date(Date.now() + 3_600_000).toISOString();
const anHourAgo = () => new Date(Date.now() - 3_600_000).toISOString();

test('tiers whose gates are open are left out, until their time or until all are out', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const set = (...gates: Gate[]) => recordHealth(client, { transitions: [], notices: [], gates });
  const tiers = () => tiersWorthTrying(client, TIER_NAMES);

  assert.deepEqual(await tiers(), ['s3', 'filesystem', 'redis'], 'nothing is known');
  await set(
    { component: 'storage/s3', openUntil: inAnHour() },
    { component: 'redis', openUntil: inAnHour() },
    { component: 'storage', openUntil: inAnHour() },
  );
  assert.deepEqual(await tiers(), ['filesystem', 'redis'], 'the gates of components are none of tiers');
  assert.deepEqual(await tiersWorthTrying(client, ['s3']), ['s3'], 'somebody has to try');
  await set(
    { component: 'storage/filesystem', openUntil: inAnHour() },
    { component: 'storage/redis', openUntil: inAnHour() },
  );
  assert.deepEqual(await tiers(), ['s3', 'filesystem', 'redis'], 'all are out');
  await set({ component: 'storage/redis', openUntil: null });
  assert.deepEqual(await tiers(), ['redis']);
  await set(
    { component: 'storage/s3', openUntil: anHourAgo() },
    { component: 'storage/filesystem', openUntil: anHourAgo() },
  );
  assert.deepEqual(await tiers(), ['s3', 'filesystem', 'redis'], 'the health cycle is dead');
});

test('an error of Postgres makes all tiers worth trying', async () => {
  await using database = await outboxDatabase();
  await database.client.query('DROP TABLE orchestrator.health_gate');
  const pool = openPool(database.url);
  assert.deepEqual(await tiersWorthTrying(pool, ['s3', 'redis']), ['s3', 'redis']);
  await pool.end();
  assert.deepEqual(await tiersWorthTrying(pool, ['s3', 'redis']), ['s3', 'redis'], 'a closed pool');
});
