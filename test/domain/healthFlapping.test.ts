import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { changeShare, type Flapping, flapped, STEADY } from '../../src/domain/healthFlapping.ts';

const after = (changes: boolean[], from: Flapping = STEADY): Flapping => changes.reduce(flapped, from);
const quiet = (cycles: number): boolean[] => Array.from({ length: cycles }, () => false);
const changing = (cycles: number): boolean[] => Array.from({ length: cycles }, () => true);
const history = fc.array(fc.boolean(), { maxLength: 60 });

suite('flapping', () => {
  test("has Icinga's weights: 1.18 for the newest of 20 changes, 0.8 for the oldest", () => {
    const only = (age: number) => changeShare([...quiet(19 - age), true, ...quiet(age)]);
    assert.ok(Math.abs(only(0) - 1.18 / 20) < 1e-9);
    assert.ok(Math.abs(only(19) - 0.8 / 20) < 1e-9);
    assert.ok(Math.abs(changeShare(changing(20)) - 0.99) < 1e-9);
  });

  test('begins above 30 % and ends at 25 %', () => {
    fc.assert(
      fc.property(history, fc.boolean(), (changes, next) => {
        const before = after(changes);
        const now = flapped(before, next);
        const share = changeShare(now.changes);
        assert.equal(now.flapping, before.flapping ? share > 0.25 : share > 0.3);
        assert.ok(now.changes.length <= 20);
      }),
    );
  });

  test('does not begin with one outage, not even one that comes and goes by way of degraded', () => {
    fc.assert(
      fc.property(fc.nat(30), fc.nat(30), fc.nat(30), (one, other, next) => {
        const changes = [true, ...quiet(one), true, ...quiet(other), true, ...quiet(next), true];
        assert.equal(after(changes).flapping, false);
      }),
    );
  });

  test('begins with the sixth change in a row', () => {
    assert.equal(after(changing(5)).flapping, false);
    assert.equal(after(changing(6)).flapping, true);
    assert.equal(after([...quiet(20), ...changing(6)]).flapping, true);
  });

  test('begins where every other cycle changes', () => {
    const alternating = changing(20).map((_, index) => index % 2 === 0);
    assert.equal(after(alternating).flapping, true);
  });

  test('ends after 20 quiet cycles at the latest, and not at once', () => {
    fc.assert(
      fc.property(history, (changes) => assert.equal(after(quiet(20), after(changes)).flapping, false)),
    );
    assert.equal(after(quiet(1), after(changing(20))).flapping, true);
    const between = after([...changing(6), ...quiet(7)]);
    assert.ok(changeShare(between.changes) < 0.3 && between.flapping);
  });
});
