import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import {
  MAX_CALL_BYTES,
  MAX_CALL_MEMORIES,
  MAX_CALLS,
  type MemoryOutcome,
  type PendingMemory,
} from '../../src/domain/memories.ts';
import { MemoryRamp } from '../../src/domain/memoryRamp.ts';
import { MemoryTroubles } from '../../src/domain/memoryTroubles.ts';
import { MemoryTurns } from '../../src/domain/memoryTurns.ts';

const memory = (tenant: string, number: number, fields: Partial<PendingMemory> = {}): PendingMemory => ({
  id: `${tenant}-${number}`,
  tenant,
  namespace: 'wm',
  key: `${tenant}:${number}`,
  payload: '{}',
  bytes: 2,
  createdAt: '2026-01-31T12:00:00.000Z',
  attempts: 0,
  ...fields,
});
const series = (tenant: string, length: number): PendingMemory[] =>
  Array.from({ length }, (_, number) => memory(tenant, number));
const stored: MemoryOutcome = { kind: 'stored' };
const numberOf = ({ id }: PendingMemory): number => Number(id.split('-').at(-1));

suite('turns', () => {
  /** Depths of the tenants, and a stream of random decisions. */
  const worlds = fc.record({
    depths: fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 6 }),
    most: fc.integer({ min: 1, max: 5 }),
    calls: fc.integer({ min: 1, max: 4 }),
    fates: fc.array(fc.constantFrom('stored', 'partly', 'away', 'rejected', 'busy'), { maxLength: 60 }),
  });

  test('whatever SomaBrain does: order within a tenant, one call each, and nothing is forgotten', () => {
    fc.assert(
      fc.property(worlds, ({ depths, most, calls, fates }) => {
        const world = new World(depths);
        for (const fate of fates) world.step(most, calls, fate);
        for (let steps = 0; world.left() > 0 && steps < 1_000; steps += 1) world.step(most, calls, 'stored');
        assert.equal(world.left(), 0, 'everything is stored in the end');
      }),
      { numRuns: 300 },
    );
  });

  test('between two calls of a tenant every other one that is ready has one', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 3, max: 9 }), { minLength: 2, maxLength: 8 }), (depths) => {
        const turns = new MemoryTurns();
        for (const [index, depth] of depths.entries()) turns.add(series(`t${index}`, depth));
        const order: string[] = [];
        for (
          let batch = turns.next(() => 1);
          batch && order.length < 3 * depths.length;
          batch = turns.next(() => 1)
        ) {
          order.push(batch[0]!.tenant);
          turns.answered(batch, [stored]);
        }
        for (let round = 0; round < 3; round += 1) {
          const served = new Set(order.slice(round * depths.length, (round + 1) * depths.length));
          assert.equal(served.size, depths.length);
        }
      }),
    );
  });

  test('a call is of one namespace, within the bounds, and a memory that cannot be sent is alone', () => {
    const turns = new MemoryTurns();
    turns.add([
      memory('a', 0),
      memory('a', 1, { namespace: 'ltm' }),
      memory('a', 2, { bytes: MAX_CALL_BYTES }),
      memory('a', 3, { bytes: MAX_CALL_BYTES * 2 }),
      memory('a', 4),
      memory('a', 5, { payload: null, bytes: 9_000_000 }),
      memory('a', 6),
    ]);
    const calls: number[][] = [];
    for (let batch = turns.next(() => 100); batch; batch = turns.next(() => 100)) {
      calls.push(batch.map(numberOf));
      turns.answered(
        batch,
        batch.map(() => stored),
      );
    }
    assert.deepEqual(calls, [[0], [1], [2], [3], [4], [5], [6]]);
  });

  test('a tenant is known until its answers are settled', () => {
    const turns = new MemoryTurns();
    turns.add([memory('a', 0), memory('b', 0)]);
    const a = turns.next(() => 1)!;
    const b = turns.next(() => 1)!;
    assert.equal(
      turns.next(() => 1),
      undefined,
    );
    turns.answered(a, [stored]);
    assert.deepEqual(turns.known(), ['a', 'b']);
    turns.settled('a', 1);
    assert.deepEqual(turns.known(), ['b']);
    turns.answered(b, [{ kind: 'busy', reason: '' }]);
    assert.deepEqual(turns.known(), []);
  });
});

/** Claims, calls and answers at random; checks the order at every step. */
class World {
  private readonly turns = new MemoryTurns();
  private readonly queues = new Map<string, PendingMemory[]>();
  private readonly calling: PendingMemory[][] = [];
  private unsettled: [tenant: string, count: number][] = [];
  private readonly next = new Map<string, number>();

  constructor(depths: number[]) {
    for (const [index, depth] of depths.entries()) this.queues.set(`t${index}`, series(`t${index}`, depth));
  }

  left(): number {
    return [...this.queues.values()].reduce((sum, queue) => sum + queue.length, 0);
  }

  step(most: number, calls: number, fate: string): void {
    this.settle();
    const known = new Set(this.turns.known());
    for (const [tenant, queue] of this.queues) if (!known.has(tenant)) this.turns.add(queue.slice(0, 7));
    while (this.calling.length < calls) {
      const batch = this.turns.next(() => most);
      if (!batch) break;
      const tenants = this.calling.map(([first]) => first!.tenant);
      assert.ok(!tenants.includes(batch[0]!.tenant), 'one call a tenant');
      assert.ok(batch.length <= most);
      const from = this.next.get(batch[0]!.tenant) ?? 0;
      assert.deepEqual(
        batch.map(numberOf),
        batch.map((_, index) => from + index),
        'in order',
      );
      this.calling.push(batch);
    }
    this.answer(fate);
  }

  private answer(fate: string): void {
    const batch = this.calling.shift();
    if (!batch) return;
    const good = fate === 'stored' ? batch.length : fate === 'partly' ? Math.floor(batch.length / 2) : 0;
    const { tenant } = batch[0]!;
    const bad = fate === 'partly' ? 'away' : fate;
    const outcomes = batch.map((_, index) => outcome(index, good, bad));
    this.turns.answered(batch, outcomes);
    this.next.set(tenant, (this.next.get(tenant) ?? 0) + good);
    const final = outcomes.filter(({ kind }) => kind === 'stored' || kind === 'rejected').length;
    this.queues.set(tenant, this.queues.get(tenant)!.slice(good));
    this.unsettled.push([tenant, final]);
  }

  private settle(): void {
    for (const [tenant, count] of this.unsettled) this.turns.settled(tenant, count);
    this.unsettled = [];
  }
}

function outcome(index: number, good: number, bad: string): MemoryOutcome {
  if (index < good) return stored;
  return index === good ? { kind: bad as 'away', reason: '' } : { kind: 'unsent' };
}

suite('troubles', () => {
  test('a first failure is everybody’s, a second one the tenant’s own if others were answered since', () => {
    const troubles = new MemoryTroubles();
    assert.ok(!troubles.failed('a', 0));
    assert.ok(!troubles.failed('a', 0), 'nobody was answered since');
    troubles.answered('b', true);
    assert.ok(troubles.failed('a', 0));
    assert.ok(!troubles.failed('b', 0), 'others may fail for another reason');
    assert.deepEqual([troubles.waiting(0), troubles.reason], [[], null]);
  });

  test('it waits 2 s, 4 s, … up to 5 minutes, and says why; it goes on with one memory a call', () => {
    const troubles = new MemoryTroubles();
    let now = 0;
    const waits = Array.from({ length: 9 }, () => {
      troubles.wait('a', '503', now);
      assert.deepEqual(troubles.waiting(now), ['a']);
      const from = now;
      while (troubles.waiting(now).length > 0) now += 1_000;
      return (now - from) / 1_000;
    });
    assert.deepEqual(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert.deepEqual([troubles.size('a'), troubles.size('b')], [1, MAX_CALL_MEMORIES]);
    assert.equal(troubles.reason, 'tenant a waits: 503');
    troubles.answered('a', false);
    assert.equal(troubles.reason, 'tenant a waits: 503', 'a rejection is no good news');
    troubles.answered('a', true);
    assert.deepEqual([troubles.size('a'), troubles.reason], [2, null]);
    troubles.wait('a', '429', now, 20_000);
    assert.deepEqual([troubles.waiting(now + 19_999), troubles.waiting(now + 20_000)], [['a'], []]);
    for (let calls = 0; calls < 7; calls += 1) troubles.answered('a', true);
    assert.ok(!troubles.failed('a', now), 'all is forgotten when its calls are full again');
    troubles.wait('c', '503', now);
    troubles.waiting(now + 62_000);
    assert.equal(troubles.reason, null, 'its memory was taken away');
  });
});

suite('the ramp', () => {
  test('one, two, four, … up to the bounds', () => {
    const ramp = new MemoryRamp();
    const widths: [number, number][] = [];
    for (let calls = 0; calls < 9; calls += 1) {
      widths.push([ramp.calls, ramp.size]);
      ramp.answered(ramp.begin());
    }
    assert.deepEqual(widths, [
      [1, 1],
      [2, 2],
      [4, 4],
      [8, 8],
      [8, 16],
      [8, 32],
      [8, 64],
      [MAX_CALLS, MAX_CALL_MEMORIES],
      [MAX_CALLS, MAX_CALL_MEMORIES],
    ]);
  });

  test('an outage: one probe after 1, 2, 4, 8, 16, 30, 30 seconds, or later if SomaBrain says so', () => {
    const ramp = new MemoryRamp();
    for (let calls = 0; calls < 9; calls += 1) ramp.answered(ramp.begin());
    const together = Array.from({ length: 8 }, () => ramp.begin());
    for (const ticket of together) ramp.away(ticket, 0);
    assert.equal(ramp.pauseMs(0), 1_000, 'calls that fail together are one failure');
    assert.deepEqual([ramp.calls, ramp.size], [1, 1]);
    ramp.answered(together[0]!);
    assert.ok(ramp.isAway, 'an answer from before the outage says nothing of now');
    const pauses = Array.from({ length: 6 }, () => {
      ramp.away(ramp.begin(), 0);
      return ramp.pauseMs(0);
    });
    assert.deepEqual(pauses, [2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    ramp.hurry();
    assert.equal(ramp.pauseMs(0), 0);
    ramp.answered(ramp.begin());
    assert.ok(!ramp.isAway);
    assert.deepEqual([ramp.calls, ramp.size], [2, 2]);
    ramp.away(ramp.begin(), 0, 20_000);
    assert.equal(ramp.pauseMs(0), 20_000);
    ramp.away(ramp.begin(), 0, 9e9);
    assert.equal(ramp.pauseMs(0), 30_000, 'not for ever');
  });

  test('never more than the bounds, whatever happens', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('answered', 'away', 'gentle', 'hurry')), (events) => {
        const ramp = new MemoryRamp();
        for (const event of events) {
          if (event === 'answered') ramp.answered(ramp.begin());
          if (event === 'away') ramp.away(ramp.begin(), 0);
          if (event === 'gentle') ramp.beGentle();
          if (event === 'hurry') ramp.hurry();
          assert.ok(ramp.calls >= 1 && ramp.calls <= MAX_CALLS);
          assert.ok(ramp.size >= 1 && ramp.size <= MAX_CALL_MEMORIES);
          assert.ok(ramp.pauseMs(0) <= 30_000);
          if (event === 'away') assert.equal(ramp.calls * ramp.size, 1);
        }
      }),
    );
  });
});
