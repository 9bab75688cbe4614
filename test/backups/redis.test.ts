import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import path from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { RdbCheck } from '../../src/backups/rdb.ts';
import { receiveDump } from '../../src/backups/replication.ts';
import { restoreFile } from '../../src/backups/restore.ts';
import { ownRedis } from '../support/backupRedis.ts';
import { backUp, backupPlace, catalogue, never, strandedIn } from '../support/backups.ts';
import { FaultProxy } from '../support/faultProxy.ts';

const fill = async ({ client }: Awaited<ReturnType<typeof ownRedis>>, keys = 50_000) => {
  await client.sendCommand(['DEBUG', 'POPULATE', String(keys), 'agent', '200']);
  await client.set('last', 'one');
};

for (const [diskless, how] of [
  ['yes', 'with a mark at its end'],
  ['no', 'with its length before it'],
] as const) {
  test(`the dump of a Redis that sends it ${how} is restored by a new Redis`, async () => {
    const options = {
      'repl-diskless-sync': diskless,
      'repl-diskless-sync-delay': '0',
      requirepass: 'p@ss word',
    };
    await using server = await ownRedis(options, { password: 'p%40ss%20word' });
    await using place = await backupPlace({ redis: { redis: server.url } });
    await fill(server);
    const { address, content } = await backUp(place, 'redis', 'redis');
    assert.match(content.versions.server!, /^\d+\.\d+/);
    assert.deepEqual(content.notes, []);
    const file = path.join(place.directory, 'dump.rdb');
    await restoreFile({ ...place, address, content }, { file }, never);
    await using restored = await ownRedis({}, { file });
    assert.equal(await restored.client.dbSize(), 50_001);
    assert.equal(await restored.client.get('last'), 'one');
  });
}

test('a dump without a checksum is taken, and that is told', async () => {
  await using server = await ownRedis({ rdbchecksum: 'no' });
  await using place = await backupPlace({ redis: { redis: server.url } });
  const { content } = await backUp(place, 'redis', 'redis');
  assert.match(content.notes.join(), /without a checksum/);
});

test('a dump of which one byte changed, or the end is missing, is found out', async () => {
  await using server = await ownRedis({});
  await fill(server);
  const dump = Buffer.concat(await Readable.from(receiveDump(server.url, never)).toArray());
  const check = (bytes: Buffer) => {
    const checking = new RdbCheck();
    for (let at = 0; at < bytes.length; at += 1000) checking.add(bytes.subarray(at, at + 1000));
    return checking.end();
  };
  assert.equal(check(dump).hasChecksum, true);
  const changed = Buffer.from(dump);
  changed[dump.length >> 1]! ^= 1;
  assert.throws(() => check(changed), { code: 'backup_failed', message: /does not have the checksum/ });
  assert.throws(() => check(dump.subarray(0, dump.length >> 1)), { code: 'backup_failed' });
  assert.throws(() => check(Buffer.alloc(0)), { code: 'backup_failed', message: /no dump/ });
  assert.throws(() => check(Buffer.from('-ERR no')), { code: 'backup_failed' });
});

test('a wrong password, and a connection that is lost in the middle, leave no backup', async () => {
  await using server = await ownRedis(
    // So large that it is not in the buffers on the way as a whole when the connection is lost.
    { requirepass: 'secret', 'repl-diskless-sync': 'no', rdbcompression: 'no' },
    { password: 'secret' },
  );
  await fill(server, 200_000);
  await using proxy = await FaultProxy.to(Number(new URL(server.url).port));
  const through = Object.assign(new URL(server.url), { port: String(proxy.port) }).href;
  const wrong = Object.assign(new URL(server.url), { password: 'not-this' }).href;
  await using place = await backupPlace({ redis: { through, wrong } });
  await assert.rejects(
    backUp(place, 'redis', 'wrong'),
    (error: Error & { code?: string }) =>
      error.code === 'backup_refused' && /WRONGPASS/.test(error.message) && !/not-this/.test(error.message),
  );
  let cut = false;
  const onProgress = ({ bytes }: { bytes: number }) => {
    if (cut || bytes < 1_000_000) return;
    cut = true;
    proxy.cut();
  };
  await assert.rejects(backUp(place, 'redis', 'through', { onProgress }), { code: 'backup_failed' });
  assert.ok(cut);
  assert.deepEqual(await catalogue(place.destination), []);
  assert.deepEqual(await strandedIn(place.destination), []);
});

test('a Redis that takes connections and never answers is given up, or cancelled', async (context) => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await using place = await backupPlace({ redis: { redis: `redis://127.0.0.1:${port}` } });
  const asked = async () => {
    const [socket] = (await once(server, 'connection')) as [Socket];
    await once(socket, 'data');
    return socket;
  };
  try {
    const cancel = new AbortController();
    const reason = new Error('cancelled by a person');
    const cancelled = backUp(place, 'redis', 'redis', { signal: cancel.signal });
    const first = await asked();
    cancel.abort(reason);
    await assert.rejects(cancelled, (error) => error === reason);

    context.mock.timers.enable({ apis: ['setTimeout'] });
    const given = backUp(place, 'redis', 'redis');
    const second = await asked();
    context.mock.timers.tick(30_000);
    await assert.rejects(given, { code: 'backup_failed', message: /cannot be reached/ });
    for (const socket of [first, second]) socket.destroy();
  } finally {
    server.close();
  }
});
