import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { suite, test } from 'node:test';
import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import {
  createHealthRecordActivities,
  type HealthRecordDependencies,
} from '../../src/activities/healthRecords.ts';
import { postNotice } from '../../src/activities/healthWebhook.ts';
import { openPool } from '../../src/database/postgres.ts';
import { freePort } from '../../stack/ports.ts';
import { outboxDatabase } from '../support/database.ts';
import { healthNotice, kafkaOutage } from '../support/health.ts';

interface Call {
  method: string | undefined;
  url: string | undefined;
  headers: IncomingHttpHeaders;
  body: string;
}

/** A small HTTP server that stands for somebody's webhook. It notes every call and answers as it is told. */
async function webhookServer(answer: (response: ServerResponse) => void) {
  const calls: Call[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    calls.push({ method: request.method, url: request.url, headers: request.headers, body });
    answer(response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    calls,
    host: `127.0.0.1:${port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const answering = (status: number, headers: Record<string, string> = {}) =>
  webhookServer((response) => response.writeHead(status, headers).end('an answer'));

const secret = 'a-5EcReT';

/** Without a line in the log for each failure that is wanted. */
const environment = () => new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });

/** The activity, as Temporal calls it. Postgres is not asked for anything here. */
function send(url: string, notice = healthNotice()) {
  const { sendHealthWebhook } = createHealthRecordActivities({
    webhook: { url, secret },
  } as unknown as HealthRecordDependencies);
  return environment().run(sendHealthWebhook, notice);
}

async function failureOf(sending: Promise<unknown>): Promise<ApplicationFailure> {
  const failure = await sending.then(
    () => assert.fail('it did not fail'),
    (error: unknown) => error,
  );
  assert.ok(failure instanceof ApplicationFailure, String(failure));
  return failure;
}

suite('the webhook', () => {
  test('gets the payload as JSON, signed, and with the key by which it tells repetitions', async () => {
    await using server = await answering(204);
    const notice = healthNotice();
    notice.payload.message = 'Kafka antwortet nicht – ü';
    const before = Math.floor(Date.now() / 1000);
    assert.equal(await send(`http://${server.host}/hook?team=1`, notice), 'sent');
    const [{ method, url, headers, body }] = server.calls as [Call];
    assert.deepEqual([method, url, headers['content-type']], ['POST', '/hook?team=1', 'application/json']);
    assert.deepEqual(JSON.parse(body), notice.payload);
    assert.equal(headers['idempotency-key'], notice.idempotencyKey);
    const timestamp = headers['x-somaagent-timestamp'] as string;
    assert.ok(Number(timestamp) >= before && Number(timestamp) <= Date.now() / 1000, timestamp);
    const expected = createHmac('sha256', secret).update(`${timestamp}.${body}`).digest('hex');
    assert.equal(headers['x-somaagent-signature'], `sha256=${expected}`);
    assert.equal(headers.authorization, undefined);
  });

  test('is logged in to with the user and the password of its URL', async () => {
    await using server = await answering(200);
    await send(`http://ann:p%40ss%zz@${server.host}/`);
    const [{ headers }] = server.calls as [Call];
    assert.equal(headers.authorization, `Basic ${Buffer.from('ann:p@ss%zz').toString('base64')}`);
  });

  for (const status of [408, 425, 429, 500, 503]) {
    test(`that answers ${status} is tried again`, async () => {
      await using server = await answering(status);
      const { type, nonRetryable } = await failureOf(send(`http://${server.host}/`));
      assert.deepEqual([type, nonRetryable], ['webhook_unavailable', false]);
    });
  }

  for (const status of [400, 401, 404, 410, 422]) {
    test(`that answers ${status} is not tried again`, async () => {
      await using server = await answering(status);
      const { type, nonRetryable } = await failureOf(send(`http://${server.host}/`));
      assert.deepEqual([type, nonRetryable], ['webhook_refused', true]);
    });
  }

  test('is not looked for elsewhere: a redirect is a refusal', async () => {
    await using target = await answering(200);
    await using server = await answering(307, { location: `http://${target.host}/` });
    const { type, message } = await failureOf(send(`http://${server.host}/`));
    assert.deepEqual([type, message], ['webhook_refused', `the webhook at ${server.host} answered 307`]);
    assert.deepEqual(target.calls, []);
  });

  test('where nobody listens, or who hangs up, is tried again', async () => {
    await using rude = await webhookServer((response) => response.destroy());
    for (const host of [`127.0.0.1:${await freePort()}`, rude.host]) {
      const { type, nonRetryable } = await failureOf(send(`http://${host}/`));
      assert.deepEqual([type, nonRetryable], ['webhook_unavailable', false]);
    }
  });

  test('that does not answer is given up in time', async () => {
    await using silent = await webhookServer(() => {});
    const posting = postNotice(
      { url: `http://${silent.host}/`, secret },
      healthNotice(),
      AbortSignal.timeout(100),
    );
    await assert.rejects(posting, { code: 'webhook_unavailable' });
  });

  test('keeps its secrets in every error: password, path, query and signature', async () => {
    await using refusing = await answering(403);
    await using failing = await answering(500);
    for (const host of [refusing.host, failing.host, `127.0.0.1:${await freePort()}`]) {
      const failure = await failureOf(send(`http://ann:pa55word@${host}/p4th?k3y=1`));
      const { message, stack, cause } = failure;
      const told = [message, stack, cause?.message, cause?.stack, JSON.stringify(failure)].join('\n');
      assert.doesNotMatch(told, /ann|pa55word|p4th|k3y|5EcReT/);
    }
  });

  test('that is not configured gets nothing, and that is said', async () => {
    const { sendHealthWebhook } = createHealthRecordActivities({
      webhook: undefined,
    } as unknown as HealthRecordDependencies);
    assert.equal(await environment().run(sendHealthWebhook, healthNotice()), 'off');
  });
});

suite('recordHealth', () => {
  test('writes the record, and what is no outage of Postgres is no reason to try again', async () => {
    await using database = await outboxDatabase();
    const pool = openPool(database.url);
    const { recordHealth } = createHealthRecordActivities({ pool, webhook: undefined });
    try {
      const record = kafkaOutage();
      await recordHealth(record);
      const { rowCount } = await database.client.query('SELECT FROM core_outboxmessage');
      assert.equal(rowCount, 1);
      record.notices[0]!.idempotencyKey = '';
      const { type, nonRetryable } = await failureOf(recordHealth(record));
      assert.deepEqual([type, nonRetryable], ['invalid_message', true]);
    } finally {
      await pool.end();
    }
  });

  test('is tried again while Postgres is away', async () => {
    const pool = openPool(`postgresql://nobody@127.0.0.1:${await freePort()}/nothing`);
    const { recordHealth } = createHealthRecordActivities({ pool, webhook: undefined });
    const { type, nonRetryable } = await failureOf(recordHealth(kafkaOutage()));
    assert.deepEqual([type, nonRetryable], ['postgres_unavailable', false]);
    await pool.end();
  });
});
