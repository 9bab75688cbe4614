import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { watched } from '../../src/backups/watchdog.ts';
import { never } from '../support/backups.ts';

const MINUTE = 60_000;
const clockOf = ({ mock }: TestContext) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  return { pass: (minutes: number) => mock.timers.tick(minutes * MINUTE) };
};

const untilAborted = async (signal: AbortSignal) => {
  await once(signal, 'abort');
  throw new Error('what follows from that');
};

test('what stands still for 15 minutes is aborted, and that is a failure another try may mend', async (context) => {
  const clock = clockOf(context);
  let alive!: (forMs?: number) => void;
  let aborted = false;
  const watching = watched(never, (signal, saysSo) => {
    alive = saysSo;
    signal.addEventListener('abort', () => {
      aborted = true;
    });
    return untilAborted(signal);
  });
  for (let time = 0; time < 3; time++) {
    clock.pass(14);
    alive();
  }
  alive(60 * MINUTE);
  clock.pass(59);
  assert.equal(aborted, false);
  alive();
  clock.pass(15);
  await assert.rejects(watching, { code: 'backup_failed', message: 'nothing came or went for 15 minutes' });
});

test('what does not end although it was cancelled is left to itself', async (context) => {
  const clock = clockOf(context);
  const cancel = new AbortController();
  const reason = new Error('cancelled by a person');
  const hung = watched(cancel.signal, () => new Promise(() => {}));
  cancel.abort(reason);
  clock.pass(1);
  await assert.rejects(hung, (error) => error === reason);
});

test('what ends is what is given back', async () => {
  assert.equal(await watched(never, async () => 7), 7);
  await assert.rejects(
    watched(never, async () => {
      throw new Error('its own');
    }),
    { message: 'its own' },
  );
});
