// From the consumer to the receipt, with the real tiers; test/outages/uploads.test.ts has the whole worker.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, suite, test } from 'node:test';
import { Client } from '@temporalio/client';
import { createUploadBytesActivities, UploadBytes } from '../../src/activities/uploadBytes.ts';
import { createUploadActivities } from '../../src/activities/uploads.ts';
import { OrchestratorClient } from '../../src/client.ts';
import { handOver, owners, uploadSequel } from '../../src/consumers.ts';
import { openPool } from '../../src/database/postgres.ts';
import { objectKey } from '../../src/database/uploadOutcomes.ts';
import type { ConsumedRecord } from '../../src/domain/consumedRecord.ts';
import { UPLOAD_TOPIC, uploadBytesTaskQueue, uploadWorkflowId } from '../../src/domain/uploads.ts';
import { queueUpload, type UploadToQueue } from '../../src/queueUpload.ts';
import type { StorageTier } from '../../src/storage/tier.ts';
import { openTiers } from '../../src/storage/tiers.ts';
import { UploadSources } from '../../src/storage/uploadSources.ts';
import { resumeUploads, startUploads } from '../../src/uploads.ts';
import { outboxDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { never, stackS3 } from '../support/storage.ts';
import { askedUpload, letters, receipts, sha256, TestTier, take, uploadRow } from '../support/uploads.ts';
import { temporalNamespace } from '../support/worker.ts';
import { runWorkflows } from '../support/workflows.ts';

const taskQueue = 'test';
let root: string;
before(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'uploads-'));
});
after(() => rm(root, { recursive: true }));

/** Everything between the topic and the tiers. `hand` hands over records as the topic's consumer does. */
async function world(
  tiers: StorageTier[] = openTiers({ s3: stackS3(), storageDir: root, redisUrl: undefined }),
) {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await outboxDatabase());
  const pool = openPool(database.url);
  stack.defer(() => pool.end());
  const namespace = stack.use(await temporalNamespace());
  const spoolDir = await mkdtemp(path.join(root, 'spool-'));
  const sources = new UploadSources({ spoolDir, allowed: [], s3: stackS3() });
  stack.defer(() => sources.close());
  const tierNames = tiers.map(({ name }) => name);
  const tiersWorthTrying = async () => tierNames;
  const bytesTaskQueue = uploadBytesTaskQueue(taskQueue);
  const bytes = new UploadBytes({ pool, tiers, sources, tiersWorthTrying });
  const activities = {
    ...createUploadActivities({ pool, tierNames, sources, bytesTaskQueue, bytes }),
    ...createUploadBytesActivities(bytes),
  };
  const { connection } = stack.use(await runWorkflows(namespace.name, taskQueue, activities));
  // As a worker has it.
  const temporal = new Client({ connection, namespace: namespace.name });
  let letters = 0;
  const handle = handOver(
    pool,
    UPLOAD_TOPIC,
    owners[UPLOAD_TOPIC]!,
    (count) => {
      letters += count;
    },
    uploadSequel({ pool, temporal, taskQueue }),
  );
  let offset = 0;
  const record = (payload: unknown, key?: string): ConsumedRecord => {
    offset += 1;
    const headers = key === undefined ? {} : { idempotency_key: Buffer.from(key) };
    const value = Buffer.from(typeof payload === 'string' ? payload : JSON.stringify(payload));
    return {
      topic: UPLOAD_TOPIC,
      partition: 0,
      offset: String(offset),
      timestamp: 0,
      key: null,
      value,
      headers,
    };
  };
  return {
    client: database.client,
    namespace,
    temporal,
    tiers,
    spoolDir,
    pool,
    record,
    handle,
    letters: () => letters,
    orchestrator: new OrchestratorClient(namespace.client, taskQueue),
    /** As `queueUpload` writes it, without the way through outbox and topic. */
    async queued(upload: UploadToQueue): Promise<{ key: string; record: ConsumedRecord }> {
      const { idempotencyKey: key } = await queueUpload(database.client, upload, { spoolDir });
      const { rows } = await database.client.query(
        'SELECT payload FROM core_outboxmessage WHERE idempotency_key = $1',
        [key],
      );
      return { key, record: record(rows[0].payload, key) };
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const payloadOf = (filename: string, bytes: Buffer) => ({
  filename,
  content_type: null,
  metadata: {},
  size: bytes.length,
  data_b64: bytes.toString('base64'),
});

suite('from the topic to the receipt', () => {
  test('every name and size ends verified in S3, once, also when the messages come again', async () => {
    await using w = await world();
    const files = ['a b.txt', 'ünïcödé 文.bin', '../../etc/passwd', '/etc/shadow', `${'x'.repeat(300)}.pdf`];
    const sizes = [0, 1, 700_000, 700_001, 6 * 1024 * 1024];
    const uploads = await Promise.all(
      files.map(async (filename, index) => {
        const bytes = randomBytes(sizes[index]!);
        return { bytes, ...(await w.queued({ filename, bytes, metadata: { index } })) };
      }),
    );
    const records = uploads.map(({ record }) => record);
    await w.handle([...records, ...records]);
    for (const { key, bytes } of uploads) {
      const receipt = await w.orchestrator.upload(key).result();
      assert.deepEqual([receipt.tier, receipt.size, receipt.sha256], ['s3', bytes.length, sha256(bytes)]);
      const stored = await buffer(await w.tiers[0]!.read(objectKey(key), never));
      assert.ok(stored.equals(bytes), key);
      const row = await uploadRow(w.client, key);
      assert.deepEqual([row.state, row.data, row.location], ['stored', null, receipt.location]);
      assert.equal((await receipts(w.client, key)).length, 1);
    }
    // After days, and after Temporal has forgotten the workflows.
    await w.handle(records);
    for (const { key } of uploads) assert.equal((await receipts(w.client, key)).length, 1);
    assert.equal(w.letters(), 0);
  });

  test('no bytes reach a history', async () => {
    await using w = await world();
    const marker = 'these-bytes-are-nobody-else’s';
    const { key, record } = await w.queued({ filename: 'a', bytes: Buffer.from(marker) });
    await w.handle([record]);
    await w.orchestrator.upload(key).result();
    const history = await w.namespace.client.workflow.getHandle(uploadWorkflowId(key)).fetchHistory();
    const text = (history.events ?? [])
      .flatMap((event) => [JSON.stringify(event), ...payloads(event)])
      .join('\n');
    assert.ok(text.includes('idempotency_key'), 'the payloads are looked at');
    assert.ok(!text.includes(marker) && !text.includes(Buffer.from(marker).toString('base64')));
  });

  test('other bytes under a key, no bytes at all, NUL in a name: dead letters that say why, and nothing else stops', async () => {
    await using w = await world();
    const [one, other] = [randomBytes(10), randomBytes(10)];
    // The bucket outlives the test.
    const [ownKey, anotherKey] = [`own:${sha256(one)}`, `another:${sha256(one)}`];
    await w.handle([
      w.record(payloadOf('a', one), ownKey),
      w.record(payloadOf('a', other), ownKey),
      w.record({ ...payloadOf('b', one), data_b64: null }),
      w.record(payloadOf('c\0d', one)),
      w.record({ ...payloadOf('e', one), size: 11 }),
      w.record(payloadOf('f', other), anotherKey),
    ]);
    for (const [key, bytes] of [
      [ownKey, one],
      [anotherKey, other],
    ] as const)
      assert.equal((await w.orchestrator.upload(key).result()).sha256, sha256(bytes));
    const { rows } = await w.client.query(
      'SELECT error_message FROM core_deadlettermessage ORDER BY created_at, error_message',
    );
    assert.deepEqual(rows.map(({ error_message }) => error_message).sort(), [
      'a text in the value holds NUL or half a surrogate pair',
      'data_b64 and data_ref are missing: the producer sent no bytes',
      'size is 11, but data_b64 holds 10 bytes',
      'the idempotency key belongs to other bytes',
    ]);
    assert.equal(w.letters(), 4);
  });

  test('while Temporal is away the records come again, and are then taken up', async () => {
    await using w = await world();
    const { key, record } = await w.queued({ filename: 'a', bytes: Buffer.from('abc') });
    const deaf = handOver(
      w.pool,
      UPLOAD_TOPIC,
      owners[UPLOAD_TOPIC]!,
      () => {},
      async () => {
        throw new Error('Temporal is away');
      },
    );
    await assert.rejects(deaf([record]), { message: 'Temporal is away' });
    assert.equal((await uploadRow(w.client, key)).state, 'waiting');
    await w.handle([record]);
    assert.equal((await w.orchestrator.upload(key).result()).tier, 's3');
  });
});

test('an upload whose workflow was lost gets another one, after half an hour without news', async () => {
  await using w = await world();
  const { key, record } = await w.queued({ filename: 'a', bytes: Buffer.from('abc') });
  await handOver(w.pool, UPLOAD_TOPIC, owners[UPLOAD_TOPIC]!, () => {})([record]);
  const resume = () => resumeUploads({ pool: w.pool, temporal: w.namespace.client, taskQueue });
  await resume();
  await assert.rejects(w.orchestrator.upload(key).status(), { name: 'WorkflowNotFoundError' });
  await w.client.query(`UPDATE orchestrator.upload SET updated_at = now() - interval '31 minutes'`);
  await resume();
  assert.equal((await w.orchestrator.upload(key).result()).tier, 's3');
});

test('an upload whose workflow Temporal refuses becomes a dead letter, and the others start', async () => {
  await using w = await world();
  const { key, record } = await w.queued({ filename: 'a', bytes: Buffer.from('abc') });
  await handOver(w.pool, UPLOAD_TOPIC, owners[UPLOAD_TOPIC]!, () => {})([record]);
  const tooLong = '🦊'.repeat(255);
  await take(w.client, [askedUpload('abc', { idempotencyKey: tooLong })]);
  await startUploads({ pool: w.pool, temporal: w.temporal, taskQueue }, [tooLong, key]);
  assert.equal((await w.orchestrator.upload(key).result()).tier, 's3');
  assert.equal((await uploadRow(w.client, tooLong)).state, 'failed');
  const [letter] = await letters(w.client, tooLong);
  assert.equal(letter?.error_type, 'upload_refused');
  assert.match(letter.error_message, /^Temporal refuses its workflow/);
});

suite('by hand', () => {
  test('by reference to the spool: stored, and told again; a second start with other bytes is refused', async () => {
    await using w = await world();
    const bytes = randomBytes(100_000);
    const key = `by-hand-${sha256(bytes)}`;
    const start = (payload: unknown) =>
      w.namespace.client.workflow.execute('uploadRetry', {
        workflowId: uploadWorkflowId(key),
        taskQueue,
        args: [payload],
      });
    await writeFile(path.join(w.spoolDir, 'mine'), bytes);
    const payload = { filename: 'mine', size: bytes.length, data_ref: 'spool:mine' };
    const first = await start(payload);
    assert.ok(existsSync(path.join(w.spoolDir, 'mine')), 'until the janitor comes');
    assert.deepEqual(await start(payload), first);
    await assert.rejects(start({ ...payload, data_ref: 'spool:other' }), (error: Error) => {
      assert.match(String(error.cause), /the idempotency key belongs to other bytes/);
      return true;
    });
    assert.equal((await receipts(w.client, key)).length, 1);
  });

  test('a reference that leads nowhere is a dead letter at once, and can be corrected', async () => {
    await using w = await world();
    const key = `typo-${sha256(randomBytes(8))}`;
    const start = (dataRef: string) =>
      w.namespace.client.workflow.execute('uploadRetry', {
        workflowId: uploadWorkflowId(key),
        taskQueue,
        args: [{ filename: 'a', size: 3, data_ref: dataRef }],
      });
    await assert.rejects(start('spool:tpyo'), (error: Error) => {
      assert.match(String(error.cause), /ENOENT/);
      return true;
    });
    assert.equal((await letters(w.client, key))[0]!.error_type, 'upload_refused');
    await writeFile(path.join(w.spoolDir, 'typo'), 'abc');
    assert.ok(await start('spool:typo'));
  });
});

suite('every tier refuses', () => {
  test('five times: a dead letter whose replay stores the bytes that were kept', async () => {
    const s3 = new TestTier('s3');
    s3.mood = 'refuses';
    await using w = await world([s3]);
    const { key, record } = await w.queued({ filename: 'a', bytes: Buffer.from('abc') });
    await w.handle([record]);
    const upload = w.orchestrator.upload(key);
    await eventually('the letter', async () => {
      await upload.retryNow().catch(() => {});
      return (await letters(w.client, key)).length === 1;
    });
    // At once, which does not count, and five times.
    assert.equal(s3.stores, 6);
    await assert.rejects(upload.result());
    const [letter] = await letters(w.client, key);
    s3.mood = 'up';
    await w.handle([w.record(letter!.payload, key)]);
    const { attempts } = await w.orchestrator.upload(key).result();
    assert.equal(attempts, 1);
    assert.equal(s3.copies.get(objectKey(key))?.toString(), 'abc');
  });
});

/** What the payloads of an event say. */
function payloads(value: unknown): string[] {
  if (value instanceof Uint8Array) return [Buffer.from(value).toString()];
  if (typeof value !== 'object' || value === null) return [];
  return Object.values(value).flatMap(payloads);
}
