import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  deliveryState,
  isSettled,
  type OutboxMessageStatus,
  type ParkedMessage,
  secondsAfterAttempt,
} from '../../src/domain/outboxDelivery.ts';

test('The wait is 2 s after the first attempt, doubled after each, and has an end', () => {
  assert.deepEqual([1, 2, 3, 4, 5].map(secondsAfterAttempt), [2, 4, 8, 16, 32]);
  assert.equal(secondsAfterAttempt(0), 2);
  assert.equal(secondsAfterAttempt(-5), 2);
  assert.equal(secondsAfterAttempt(20), 1_048_576);
  assert.equal(secondsAfterAttempt(2_147_483_647), 1_048_576);
});

test("A delivery's state is the row's, and only a row that is parked or on its way is not settled", () => {
  const states = ['failed', 'pending', 'published', 'dead', 'something else'].map((status) => {
    const message = { status: status as OutboxMessageStatus } as ParkedMessage;
    return [deliveryState(message), isSettled(message)];
  });
  assert.deepEqual(states, [
    ['waiting', false],
    ['trying', false],
    ['delivered', true],
    ['dead', true],
    ['gone', true],
  ]);
  assert.deepEqual([deliveryState(null), isSettled(null)], ['gone', true]);
});
