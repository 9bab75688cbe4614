// The topics are the platform's own, which every worker of the run consumes: what is sent here must be gone afterwards.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { RECEIPT_TOPIC, UPLOAD_TOPIC } from '../../src/domain/uploads.ts';
import { eventually } from '../support/eventually.ts';
import { readTopics, testKafka } from '../support/kafka.ts';
import { random, uploadWorld } from '../support/uploadWorld.ts';

const topics = [UPLOAD_TOPIC, `${UPLOAD_TOPIC}.dlq`, RECEIPT_TOPIC];

after(async () => {
  const admin = testKafka().admin();
  await admin.connect();
  const isThere = async () => (await admin.listTopics()).filter((topic) => topics.includes(topic));
  await admin.deleteTopics({ topics: await isThere() });
  await eventually('the topics to be gone', async () => (await isThere()).length === 0);
  await admin.disconnect();
});

test('status, result, row, event and metrics agree on what is stored; what is no upload is told on .dlq', async () => {
  await using world = await uploadWorld({ intervalSeconds: 60 });
  await using reader = await readTopics([`${UPLOAD_TOPIC}.dlq`, RECEIPT_TOPIC]);
  const worker = await world.work();
  const sent = [await world.send('small ü.txt', random(10)), await world.send('large', random(2_000_000))];
  const { client } = world.database;
  await client.query(
    `INSERT INTO core_outboxmessage
       (id, idempotency_key, topic, partition_key, payload, headers, created_at, attempts, max_attempts, status)
     VALUES (gen_random_uuid(), 'lost', $1, 'lost', '{"filename": "lost", "size": 9, "data_b64": null}', '{}', now(), 0, 5, 'pending')`,
    [UPLOAD_TOPIC],
  );
  const events = () => reader.received.filter(({ topic }) => topic === RECEIPT_TOPIC);
  await eventually('both events', () => events().length === 2);
  for (const { key, size, sha256 } of sent) {
    const upload = world.namespace.orchestrator.upload(key);
    const receipt = await upload.result();
    assert.deepEqual([receipt.tier, receipt.size, receipt.sha256], ['s3', size, sha256]);
    assert.deepEqual(await upload.status(), { state: 'stored', attempts: 1, last_error: null, receipt });
    const event = events().find((one) => one.key === key)!;
    assert.deepEqual(JSON.parse(event.value), {
      idempotency_key: key,
      state: 'stored',
      ...receipt,
      metadata: {},
    });
  }
  const letter = await eventually('the letter', () =>
    reader.received.find(({ topic }) => topic === `${UPLOAD_TOPIC}.dlq`),
  );
  assert.match(JSON.parse(letter.value).error_message, /the producer sent no bytes/);
  const metrics = async () => (await fetch(`http://${worker.metricsAddress}/metrics`)).text();
  await eventually('the counter', async () =>
    /^uploads_stored_total\{[^}]*tier="s3"[^}]*\} 2$/m.test(await metrics()),
  );
  assert.match(await metrics(), /^uploads_open\{[^}]*state="waiting"[^}]*\} 0$/m);
  assert.equal(await worker.end(), 0, worker.output);
});
