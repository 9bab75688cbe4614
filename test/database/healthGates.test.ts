import assert from 'node:assert/strict';
import { test } from 'node:test';
import { recordHealth } from '../../src/database/health.ts';
import { readGate } from '../../src/database/healthGates.ts';
import { openPool } from '../../src/database/postgres.ts';
import { outboxDatabase } from '../support/database.ts';

const inAnHour = () => new Date(Date.now() + 3_600_000);
const anHourAgo = () => new Date(Date.now() - 3_600_000);

test('a gate is open until its time, and not where there is none', async () => {
  await using database = await outboxDatabase();
  const { client } = database;
  const set = (openUntil: Date | null) =>
    recordHealth(client, {
      transitions: [],
      notices: [],
      gates: [{ component: 'somabrain', openUntil: openUntil?.toISOString() ?? null }],
    });
  const changed = async () =>
    (await client.query('SELECT updated_at FROM orchestrator.health_gate')).rows[0].updated_at;

  assert.deepEqual(await readGate(client, 'somabrain'), { open: false, openUntil: null });
  const later = inAnHour();
  await set(later);
  assert.deepEqual(await readGate(client, 'somabrain'), { open: true, openUntil: later });
  assert.deepEqual(await readGate(client, 'kafka'), { open: false, openUntil: null });
  const before = await changed();
  await set(later);
  assert.deepEqual(await changed(), before, 'what stays is not written again');
  const past = anHourAgo();
  await set(past);
  assert.notDeepEqual(await changed(), before);
  assert.deepEqual(await readGate(client, 'somabrain'), { open: false, openUntil: past });
  await set(null);
  assert.deepEqual(await readGate(client, 'somabrain'), { open: false, openUntil: null });
});

test('it can be read through a pool, and an error of Postgres is thrown', async () => {
  await using database = await outboxDatabase();
  const pool = openPool(database.url);
  try {
    assert.equal((await readGate(pool, 'kafka')).open, false);
    await database.client.query('DROP TABLE orchestrator.health_gate');
    await assert.rejects(readGate(pool, 'kafka'), { code: '42P01' });
  } finally {
    await pool.end();
  }
});
