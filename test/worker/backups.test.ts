// Backups and drills the whole way, through real workers; test/soak/backupWorkers.long.ts has what takes longer.
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { openDestination } from '../../src/backups/open.ts';
import { s3Client } from '../../src/backups/s3.ts';
import { backupSequel, handOver, owners } from '../../src/consumers.ts';
import { openPool } from '../../src/database/postgres.ts';
import type { BackupTask } from '../../src/domain/backups.ts';
import { openTiers } from '../../src/storage/tiers.ts';
import { ownRedis } from '../support/backupRedis.ts';
import { backupPlace, never } from '../support/backups.ts';
import { backupWorld, filesIn, fill } from '../support/backupWorld.ts';
import { eventually } from '../support/eventually.ts';
import { restoreCommand } from '../support/restoreCommand.ts';
import { testStack } from '../support/stack.ts';
import { contentOf, factsOf, newKey, sourceOf, stackS3, storageDirectory } from '../support/storage.ts';
import { startWorker, type TestNamespace } from '../support/worker.ts';

test('a task of Kafka, there twice, becomes one verified backup, and a drill restores it', async () => {
  await using world = await backupWorld();
  const { database, directory, namespace, source } = world;
  await using worker = await startWorker({
    ...world.env,
    SA01_BACKUP_RETENTION: 'last=1,minimum=1',
    SA01_BACKUP_DRILL_CHECKS: JSON.stringify({ 'has notes': 'SELECT count(*) = 20000 FROM notes' }),
  });
  await worker.ready();
  await fill(database.client, 20_000);
  const pool = openPool(database.url);
  const record = (offset: number, own: object) => ({
    topic: 'backup.tasks',
    partition: 0,
    offset: String(offset),
    timestamp: Date.now(),
    // Other tests' messages come to this worker too.
    key: Buffer.from(source),
    headers: {},
    value: Buffer.from(
      JSON.stringify({
        type: 'database',
        source,
        destination: null,
        metadata: {},
        queued_at: '2026-01-31T12:00:00',
        ...own,
      }),
    ),
  });
  const handle = handOver(
    pool,
    'backup.tasks',
    owners['backup.tasks']!,
    () => {},
    backupSequel(namespace.client, 'somaagent-orchestrator'),
  );
  await handle([record(0, {}), record(1, {}), record(2, { type: 'tape' }), record(3, { source: 'a\nb' })]);
  await handle([record(0, {})]);
  const key = `backup:database:${source}:1769860800`;
  const { state, attempts, manifest } = await namespace.orchestrator.backup(key).result();
  assert.deepEqual([state, attempts], ['verified', 1], worker.output);
  assert.equal(manifest!.content.rows!['public.notes'], 20_000);
  await handle([record(0, {})]);
  const place = `database/${source}/${manifest!.id}-1`;
  assert.deepEqual(
    await filesIn(directory),
    ['data', 'globals', 'manifest.json'].map((file) => `${place}/${file}`),
  );
  const letters = await database.client.query(
    'SELECT error_message FROM core_deadlettermessage WHERE partition_key = $1 ORDER BY 1',
    [source],
  );
  assert.deepEqual(
    letters.rows.map(({ error_message }) => /^\w+ must be/.exec(error_message)?.[0]),
    ['source must be', 'type must be'],
  );

  const drill = await namespace.orchestrator.startRestoreDrill({ source });
  const { evidence, backup } = await drill.result();
  assert.deepEqual([backup, evidence!.differences], [manifest!.id, []]);
  assert.ok(evidence!.found >= 20_000);
  assert.deepEqual(evidence!.checks, [{ name: 'has notes', passed: true, error: null }]);
  const { rows } = await database.client.query(
    'SELECT passed, b.state, b.restored_at = d.ended_at AS restored FROM orchestrator.restore_drill AS d JOIN orchestrator.backup AS b ON b.id = d.backup',
  );
  assert.deepEqual(rows, [{ passed: true, state: 'verified', restored: true }]);
  assert.deepEqual(await world.events(), ['backup.completed', 'drill.passed']);

  // Much smaller than the last good one: refused, nothing of it is left, and the good one stays.
  await database.client.query('DROP TABLE notes');
  const smaller = await namespace.orchestrator.startBackup({ type: 'database', source }, 'smaller');
  await assert.rejects(smaller.result());
  assert.match((await smaller.status()).last_error!, /^backup_refused: .*less than 50 %/);
  assert.equal((await filesIn(directory)).length, 3);
  const metadata = { accept_smaller: true };
  const accepted = await namespace.orchestrator.startBackup(
    { type: 'database', source, metadata },
    'smaller',
  );
  const second = await accepted.result();
  const retention = { kept: 1, removed: [manifest!.id], last_error: null };
  assert.deepEqual([second.state, second.retention], ['verified', retention]);
  assert.deepEqual(
    (await filesIn(directory)).map((file) => path.dirname(file)),
    Array.from({ length: 3 }, () => `database/${source}/${second.id}-2`),
    'and only then the older one goes',
  );

  await eventually('the metrics', async () => {
    const metrics = await (await fetch(`http://${worker.metricsAddress}/metrics`)).text();
    return ['success', 'verified', 'restored'].every((what) =>
      new RegExp(`^backup_last_${what}_timestamp_seconds\\{.*source="${source}".*\\} 1\\d{9}`, 'm').test(
        metrics,
      ),
    );
  });
  await pool.end();

  // The backup is whole, but it is not what people rely on.
  const failing = await namespace.orchestrator.startRestoreDrill({ source });
  await assert.rejects(failing.result());
  const error = 'the check has notes relation "notes" does not exist';
  assert.equal((await failing.status()).last_error, `drill_failed: ${error}`);
  assert.equal((await world.events()).at(-1), 'drill.failed');
  const health = namespace.orchestrator.healthCheck();
  await health.checkNow();
  const found = await eventually('the cycle', async () => {
    const component = await health.component('backup_service');
    return component.last_levels.at(-1) === 'moderate' ? component : undefined;
  });
  assert.equal(found.error, `the last restore drill of ${source} failed: drill_failed: ${error}`);
});

test('the bytes of uploads, from S3 to a directory and from the filesystem tier to S3: drilled, and restored by hand', async () => {
  await using world = await backupWorld();
  await using storage = await storageDirectory();
  await using place = await backupPlace();
  const { namespace, directory } = world;
  const s3 = { ...stackS3(), bucket: `uploads-${crypto.randomUUID()}` };
  await s3Client(s3).send(new CreateBucketCommand({ Bucket: s3.bucket }));
  const env = { ...world.env, SA01_S3_BUCKET: s3.bucket, SA01_STORAGE_DIR: storage.root };
  await using worker = await startWorker(env);
  await worker.ready();
  const files = [0, 1, 700_001, 9_000_000].map((size) => [newKey(), contentOf(size)] as const);
  for (const tier of openTiers({ s3, storageDir: storage.root, redisUrl: undefined }))
    for (const [key, bytes] of files) await tier.store(key, sourceOf(bytes), factsOf(bytes), never);
  for (const [source, destination, nameOf] of [
    ['s3/uploads/', pathToFileURL(directory).href, (key: string) => `uploads/${key}`],
    ['filesystem', `s3://${s3.bucket}/backups`, (key: string) => `uploads/${key.slice(0, 2)}/${key}`],
  ] as const) {
    const task = { type: 'storage', source, destination } as const;
    const { id, state } = await (await namespace.orchestrator.startBackup(task)).result();
    assert.equal(state, 'verified');
    const drill = await namespace.orchestrator.startRestoreDrill({ source, type: 'storage' });
    const { evidence, backup } = await drill.result();
    assert.deepEqual([backup, evidence!.differences], [id, []]);
    assert.deepEqual(await world.events(source), ['backup.completed', 'drill.passed']);
    const into = path.join(place.directory, id!);
    const restored = await restoreCommand(env, id!, '--into', into, '--destination', destination);
    assert.equal(restored.code, 0, restored.complained);
    assert.deepEqual(await filesIn(into), files.map(([key]) => nameOf(key)).sort());
    for (const [key, bytes] of files)
      assert.ok(
        bytes.equals(await readFile(path.join(into, nameOf(key)))),
        `${source}: ${bytes.length} bytes`,
      );
  }
});

/** What Temporal keeps of all workflows, as text. */
async function histories({ client }: TestNamespace): Promise<string> {
  const texts: string[] = [];
  for await (const { workflowId, runId } of client.workflow.list()) {
    const history = await client.workflow.getHandle(workflowId, runId).fetchHistory();
    const readable = (_: string, value: unknown) =>
      value instanceof Uint8Array ? Buffer.from(value).toString() : value;
    texts.push(JSON.stringify(history, readable));
  }
  return texts.join('\n');
}

test('to S3, encrypted: a database, a tree and Redis, each restored by a drill; the key is told nobody', async () => {
  await using world = await backupWorld();
  await using redis = await ownRedis({ 'repl-diskless-sync-delay': '0' });
  await using place = await backupPlace();
  const { database, namespace, source } = world;
  const identity = await generateIdentity();
  const identityFile = path.join(place.directory, 'identity');
  await writeFile(identityFile, `# a comment\n${identity}\n`);
  const tree = path.join(place.directory, 'tree');
  await mkdir(tree);
  await writeFile(path.join(tree, 'a secret'), 'attack at dawn');
  const url = `s3://${testStack().env().SA01_S3_BUCKET}/backups-${crypto.randomUUID()}`;
  await using worker = await startWorker({
    ...world.env,
    SA01_BACKUP_DESTINATION: url,
    SA01_BACKUP_RECIPIENTS: await identityToRecipient(identity),
    SA01_BACKUP_IDENTITY_FILE: identityFile,
    SA01_BACKUP_ROOTS: tree,
    SA01_REDIS_URL: redis.url,
  });
  await worker.ready();
  await fill(database.client, 1_000);
  await redis.client.set('a key', 'attack at dawn');
  const tasks: BackupTask[] = [
    { type: 'database', source },
    { type: 'files', source: tree },
    { type: 'redis', source: 'redis' },
  ];
  for (const task of tasks) {
    const { manifest } = await (await namespace.orchestrator.startBackup(task)).result();
    assert.deepEqual([manifest!.destination, manifest!.content.recipients.length], [url, 1], task.type);
    const drill = await namespace.orchestrator.startRestoreDrill({ source: task.source, type: task.type });
    const { state, evidence, backup } = await drill.result();
    assert.deepEqual([state, evidence!.differences, backup], ['passed', [], manifest!.id], task.type);
    assert.deepEqual(await world.events(task.source), ['backup.completed', 'drill.passed']);
  }

  const destination = await openDestination(url, place.settings);
  const manifests: string[] = [];
  for await (const address of destination.list(never)) {
    const [start] = await (await destination.read(address, 'data', never)).take(1).toArray();
    assert.match(String(start), /^age-encryption\.org\/v1\n/);
    manifests.push((await destination.readNote(address, 'manifest.json', never))!);
    await destination.remove(address, never);
  }
  assert.equal(manifests.length, tasks.length);
  const { rows } = await database.client.query('SELECT metadata, manifest, error FROM orchestrator.backup');
  const written = [...manifests, worker.output, JSON.stringify(rows), await histories(namespace)].join('\n');
  assert.ok(written.includes(source) && written.includes('restoreDrill'));
  for (const secret of ['AGE-SECRET-KEY', 'attack at dawn']) assert.ok(!written.includes(secret), secret);
});
