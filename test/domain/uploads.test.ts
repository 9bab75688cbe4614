import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { readUploadInput, type UploadStart } from '../../src/domain/uploadInput.ts';
import {
  keyOfWorkflow,
  secondsAfterRefusal,
  secondsToNextPromotion,
  secondsToNextTry,
  TIER_NAMES,
  type TierName,
  tiersAbove,
  tiersBelow,
  uploadKey,
  uploadSummary,
  uploadWorkflowId,
} from '../../src/domain/uploads.ts';
import { failedOutcome, type TierReason } from '../../src/domain/uploadTries.ts';

const digest = (data: string | Uint8Array) => createHash('sha256').update(data).digest('hex');
const reason = (tier: TierReason['tier'], code: TierReason['code']): TierReason => ({
  tier,
  code,
  message: 'why',
});

test('the wait doubles from two seconds up to five minutes, and above a lower tier from one minute up to fifteen', () => {
  const tries = Array.from({ length: 11 }, (_, index) => secondsToNextTry(index + 1));
  assert.deepEqual(tries, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
  const looks = Array.from({ length: 7 }, (_, index) => secondsToNextPromotion(index));
  assert.deepEqual(looks, [60, 120, 240, 480, 900, 900, 900]);
  const refusals = [1, 2, 3, 4].map(secondsAfterRefusal);
  assert.deepEqual(refusals, [60, 120, 240, 480], 'a quarter of an hour until the fifth');
  assert.deepEqual([secondsToNextTry(1e9), secondsToNextPromotion(1e9)], [300, 900]);
});

test('an idempotency key always fits, and the same file has the same', () => {
  assert.equal(uploadKey('a.txt', digest('x'), digest), `upload:a.txt:${digest('x').slice(0, 16)}`);
  const long = uploadKey('ü'.repeat(300), digest('x'), digest);
  assert.match(long, /^upload:[0-9a-f]{64}$/);
  // 231 characters, and more bytes than Temporal takes as an id.
  assert.match(uploadKey('🦊'.repeat(231), digest('x'), digest), /^upload:[0-9a-f]{64}$/);
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 400 }), (name) => {
      const key = uploadKey(name, digest(name), digest);
      const fits = [...key].length <= 255 && Buffer.byteLength(uploadWorkflowId(key)) < 1_000;
      return fits && key === uploadKey(name, digest(name), digest);
    }),
  );
});

test('the summary fits into the 400 bytes that Temporal keeps of it', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary', maxLength: 1_024 }),
      (name) => Buffer.byteLength(uploadSummary(name)) <= 400,
    ),
  );
});

suite('a round over the tiers', () => {
  const codes = fc.constantFrom<TierReason['code']>(
    'storage_unavailable',
    'storage_refused',
    'upload_corrupt',
    'untried',
  );
  const configured = fc.subarray([...TIER_NAMES]);

  test('spends an attempt only if every configured tier gave a definite no', () => {
    fc.assert(
      fc.property(configured, fc.array(codes, { minLength: 3, maxLength: 3 }), (tiers, all) => {
        const reasons = tiers.map((tier, index) => reason(tier, all[index]!));
        const definite = reasons.every(({ code }) => code === 'storage_refused' || code === 'upload_corrupt');
        const { kind, error } = failedOutcome(tiers, reasons);
        assert.equal(kind, tiers.length > 0 && definite ? 'refused' : 'away');
        for (const { tier, code } of reasons) assert.ok(error.includes(`${tier}: ${code}`));
      }),
    );
  });

  test('one that was not asked has not refused', () => {
    assert.equal(failedOutcome(['s3', 'redis'], [reason('s3', 'storage_refused')]).kind, 'away');
    assert.equal(failedOutcome(['s3'], [reason('source', 'storage_unavailable')]).kind, 'away');
    assert.match(failedOutcome([], []).error, /SA01_STORAGE_DIR/);
  });

  test('tiers above and below are those of the chain, as far as they are there', () => {
    assert.deepEqual(tiersAbove('redis', ['redis', 'filesystem', 's3']), ['s3', 'filesystem']);
    assert.deepEqual(tiersAbove('filesystem', ['filesystem', 'redis']), []);
    assert.deepEqual(tiersBelow('s3', ['redis', 's3']), ['redis']);
    fc.assert(
      fc.property(fc.constantFrom<TierName>(...TIER_NAMES), configured, (tier, tiers) => {
        const all = [...tiersAbove(tier, tiers), ...tiersBelow(tier, tiers)];
        return !all.includes(tier) && all.length === tiers.filter((name) => name !== tier).length;
      }),
    );
  });
});

suite('what uploadRetry is started with', () => {
  const payload = { filename: '../a b.txt', size: 3, data_ref: 'spool:x' };
  const faultsOf = (input: unknown, id = 'upload/k') => {
    const read = readUploadInput(input, id);
    assert.ok('faults' in read, JSON.stringify(read));
    return read.faults.join('; ');
  };

  test('the payload of the topic by reference, or the key of an upload that is there', () => {
    const byHand = readUploadInput(payload, 'upload/k') as UploadStart;
    assert.deepEqual(byHand, {
      key: 'k',
      request: { filename: '../a b.txt', contentType: null, metadata: {}, size: 3, dataRef: 'spool:x' },
      progress: { rounds: 0, lastError: null },
      waitLimit: 200,
    });
    const again = readUploadInput({ idempotency_key: 'k/ü' }, uploadWorkflowId('k/ü')) as UploadStart;
    assert.deepEqual([again.key, again.request], ['k/ü', null]);
    assert.equal(keyOfWorkflow('uploads/k'), undefined);
  });

  test('each fault is named', () => {
    const table: [unknown, RegExp, id?: string][] = [
      [payload, /the workflow id of an upload is upload\/ and its idempotency key.*got "mine"/, 'mine'],
      [payload, /got "upload\/"/, 'upload/'],
      [payload, /of 1 to 255 characters/, `upload/${'k'.repeat(256)}`],
      [payload, /at most 900 bytes/, `upload/${'🦊'.repeat(226)}`],
      [undefined, /takes the payload of upload\.retry: got nothing/],
      [[payload], /got an array/],
      [
        { ...payload, data_b64: 'AQID' },
        /stay in Temporal's history.*send the message to upload\.retry.*data_ref/,
      ],
      [{ ...payload, data_ref: undefined }, /data_b64 and data_ref are missing/],
      [
        { filename: '', size: -1, data_ref: 7, metadata: [], content_type: 1 },
        /filename must.*content_type must.*metadata must.*size must.*data_ref must/,
      ],
      [{ ...payload, filename: 'a\0b' }, /NUL/],
      [{ idempotency_key: 'other' }, /must be that of the workflow id, "k": got "other"/],
      [{ idempotency_key: 'k', size: 3 }, /size is no field beside idempotency_key/],
      [{ idempotency_key: 'k', progress: { rounds: -1 } }, /progress is what an earlier run left/],
      [{ idempotency_key: 'k', waitLimit: 0 }, /waitLimit must be a whole number from 1 on: got 0/],
    ];
    for (const [input, fault, id] of table) assert.match(faultsOf(input, id), fault);
  });

  test('whatever it is, there is an answer', () => {
    fc.assert(
      fc.property(fc.anything(), fc.string(), (input, id) => {
        const read = readUploadInput(input, `upload/${id}`);
        return 'key' in read || read.faults.length > 0;
      }),
    );
  });
});
