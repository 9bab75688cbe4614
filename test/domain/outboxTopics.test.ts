import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type Rejection, type RejectionCode, rejectionCodes } from '../../src/domain/outbox.ts';
import { isTopicLevel, OutboxTopics } from '../../src/domain/outboxTopics.ts';
import { deadLetterTopic } from '../../src/domain/topics.ts';

const facts = { partitions: 6, maxMessageBytes: 20_000, compacted: false };
const forbidden: Rejection = { code: 'topic_forbidden', message: 'no right' };

test('Which rejections are true of all messages of a topic', () => {
  const topicLevel: RejectionCode[] = ['invalid_topic', 'unknown_topic', 'topic_forbidden'];
  for (const code of rejectionCodes) {
    assert.equal(isTopicLevel({ code, message: '' }), topicLevel.includes(code), code);
  }
});

test('Dead letters go to the topic with .dlq behind its name, those of such a topic nowhere', () => {
  assert.equal(deadLetterTopic('a.b'), 'a.b.dlq');
  assert.equal(deadLetterTopic('dlq'), 'dlq.dlq');
  assert.equal(deadLetterTopic('a.dlq'), undefined);
  assert.equal(deadLetterTopic('.dlq'), undefined);
  assert.equal(deadLetterTopic('a.dlq.b'), 'a.dlq.b.dlq');
  assert.equal(deadLetterTopic('t'.repeat(245)), `${'t'.repeat(245)}.dlq`);
  for (const topic of ['t'.repeat(246), 'a b', '', '.', '..']) {
    assert.equal(deadLetterTopic(topic), undefined, topic);
  }
});

suite('Facts', () => {
  test('are held against a message for five seconds, and remembered after that', () => {
    const topics = new OutboxTopics();
    assert.equal(topics.factsOf('t'), undefined);
    assert.equal(topics.freshFactsOf('t', 0), undefined);
    topics.learn('t', facts, 1_000);
    assert.deepEqual(topics.freshFactsOf('t', 5_999), facts);
    assert.equal(topics.freshFactsOf('t', 6_000), undefined);
    assert.deepEqual(topics.factsOf('t'), facts);
  });

  test('count as news when they are new, another, or fresh again', () => {
    const topics = new OutboxTopics();
    const versionAfter = (now: number, learned = facts) => {
      topics.learn('t', { ...learned }, now);
      return topics.version;
    };
    assert.equal(versionAfter(0), 1);
    assert.equal(versionAfter(4_999), 1, 'nothing new');
    assert.equal(versionAfter(9_998), 1, 'its age counts from when it was learned last');
    assert.equal(versionAfter(9_999, { ...facts, maxMessageBytes: 1 }), 2);
    assert.equal(versionAfter(20_000, { ...facts, maxMessageBytes: 1 }), 3);
  });
});

suite('Suspicion', () => {
  test('falls on topics that never worked', () => {
    const topics = new OutboxTopics();
    topics.prove(['good']);
    topics.suspect(['good', 'new', 'other']);
    assert.deepEqual(
      ['good', 'new', 'other', 'absent'].map((topic) => topics.isSuspect(topic)),
      [false, true, true, false],
    );
    topics.prove(['new']);
    assert.equal(topics.isSuspect('new'), false);
    assert.equal(topics.isSuspect('other'), true);
  });

  test('falls on all where all have worked', () => {
    const topics = new OutboxTopics();
    topics.prove(['a', 'b']);
    topics.suspect(['a', 'b']);
    assert.ok(topics.isSuspect('a') && topics.isSuspect('b'));
  });
});

test('A topic is condemned for five seconds, then tried by itself, and cleared when it works', () => {
  const topics = new OutboxTopics();
  topics.prove(['t']);
  topics.condemn('t', forbidden, 1_000);
  assert.deepEqual(topics.verdictOn('t', 5_999), forbidden);
  assert.equal(topics.verdictOn('other', 1_000), undefined);
  assert.equal(topics.verdictOn('t', 6_000), undefined);
  assert.equal(topics.isSuspect('t'), true, 'it goes alone');
  topics.suspect(['t', 'new']);
  assert.equal(topics.isSuspect('new'), true, 'having worked once does not clear it any more');
  topics.prove(['t']);
  assert.equal(topics.isSuspect('t'), false);
});
