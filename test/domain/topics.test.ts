import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isLegalTopic, plannedPartitions } from '../../src/domain/topics.ts';

test('A topic is legal exactly where Kafka says so', () => {
  for (const topic of ['a', 'conversation.inbound', 'A-b_c.9', '...', '-', 't'.repeat(249)]) {
    assert.ok(isLegalTopic(topic), topic);
  }
  for (const topic of ['', '.', '..', ' ', 'a b', 'a/b', 'ü', 'a\n', 'a\0', '*', 't'.repeat(250)]) {
    assert.ok(!isLegalTopic(topic), JSON.stringify(topic));
  }
});

test('Topics get the planned partitions, dead letter topics three, whatever they belong to', () => {
  const plan = { conversationTopic: 'talk', createTopics: true, defaultPartitions: 4 };
  const expected = {
    talk: 12,
    'talk.dlq': 3,
    'somabrain.memory.remember': 6,
    'somabrain.memory.remember.dlq': 3,
    'upload.retry': 4,
    'conversation.inbound': 4,
    'not.dlq.really': 4,
  };
  for (const [topic, partitions] of Object.entries(expected)) {
    assert.equal(plannedPartitions(topic, plan), partitions, topic);
  }
});
