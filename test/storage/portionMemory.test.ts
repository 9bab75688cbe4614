import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PortionMemory } from '../../src/storage/portionMemory.ts';

test('Only what was given back is used again', () => {
  const memory = new PortionMemory(100);
  const [first, second] = [memory.borrow(), memory.borrow()];
  const taken = [first.take(100), first.take(10), second.take(100)];
  assert.deepEqual(
    taken.map(({ length }) => length),
    [100, 10, 100],
  );
  assert.equal(new Set(taken.map(({ buffer }) => buffer)).size, 3);
  first.giveBack();
  first.giveBack();
  const again = memory.borrow();
  const reused = [again.take(1), again.take(1)].map(({ buffer }) => buffer);
  assert.deepEqual(new Set(reused), new Set([taken[0]!.buffer, taken[1]!.buffer]));
  assert.notEqual(again.take(1).buffer, taken[2]!.buffer);
});

test('Larger portions are new each time', () => {
  const memory = new PortionMemory(100);
  const borrowed = memory.borrow();
  const large = borrowed.take(101);
  assert.equal(large.length, 101);
  borrowed.giveBack();
  assert.notEqual(memory.borrow().take(100).buffer, large.buffer);
});

test('Some is kept, and not for long', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const memory = new PortionMemory(1);
  const buffers = (count: number) => {
    const borrowed = memory.borrow();
    const taken = Array.from({ length: count }, () => borrowed.take(1).buffer);
    borrowed.giveBack();
    return taken;
  };
  const again = (now: ArrayBufferLike[], before: ArrayBufferLike[]) =>
    now.filter((one) => before.includes(one)).length;
  const first = buffers(20);
  assert.equal(again(buffers(20), first), 8);
  t.mock.timers.tick(9_999);
  const kept = buffers(8);
  t.mock.timers.tick(9_999);
  assert.equal(again(buffers(8), kept), 8);
  t.mock.timers.tick(10_000);
  assert.equal(again(buffers(8), kept), 0);
});
