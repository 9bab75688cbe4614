import { type UploadReceipt, uploadBytesTaskQueue } from '../../src/domain/uploads.ts';
import { eventually } from '../support/eventually.ts';
import { becomes, type Scenario } from './scenario.ts';

const uploadReceipt: UploadReceipt = {
  filename: 'a file.txt',
  tier: 'redis',
  location: 'redis://127.0.0.1:6379/0/key',
  size: 3,
  sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  durability: 'in memory, written down every second',
  attempts: 2,
  stored_at: '2026-11-23T12:00:00.000Z',
  promoted_at: null,
};

/** What the first activity of an upload says; none of it is stored. */
const acceptedUpload = {
  filename: 'a file.txt',
  attempts: 0,
  lastError: null,
  receipt: null,
  better: [],
  leftovers: [],
  bytesTaskQueue: uploadBytesTaskQueue('record'),
};

/** Stored within the first workflow task. */
export function uploadAtOnce(): Scenario {
  const receipt = { ...uploadReceipt, tier: 's3', attempts: 1 };
  const stored = { kind: 'stored', receipt, better: [], leftovers: [] };
  return {
    type: 'uploadRetry',
    workflowId: 'upload/recorded',
    args: [{ filename: 'a file.txt', size: 3, data_ref: 'spool:recorded' }],
    activities: { beginUpload: async () => ({ accepted: acceptedUpload, stored }) },
    drive: (handle) => handle.result(),
  };
}

/** Away, refused, hurried, stored on the last tier, promoted after a look in vain, and what is below is cleared. */
export function uploadRetry(): Scenario {
  const receipt = uploadReceipt;
  let rounds = 0;
  let looks = 0;
  return {
    type: 'uploadRetry',
    workflowId: 'upload/recorded',
    args: [{ filename: 'a file.txt', size: 3, data_ref: 'spool:recorded' }],
    activities: {
      beginUpload: async () => ({ accepted: acceptedUpload, stored: null }),
      async storeUpload() {
        rounds += 1;
        if (rounds === 1) return { kind: 'away', error: 's3: storage_unavailable: no answer' };
        if (rounds === 2) return { kind: 'refused', error: 's3: storage_refused: forbidden' };
        return { kind: 'stored', receipt, better: ['s3'], leftovers: [] };
      },
      async promoteUpload() {
        looks += 1;
        if (looks === 1) return { kind: 'away', error: 's3: untried: its health' };
        const promoted = { ...receipt, tier: 's3', promoted_at: '2026-11-23T12:01:00.000Z' };
        return { kind: 'stored', receipt: promoted, better: [], leftovers: ['redis'] };
      },
      clearLeftovers: async () => {},
    },
    async drive(handle) {
      await eventually('the second round', () => rounds === 2);
      await becomes(handle, 'waiting');
      await handle.signal('retryNow');
      await becomes(handle, 'promoting');
      await handle.signal('retryNow');
      await eventually('a look in vain', () => looks === 1);
      await handle.signal('retryNow');
      await handle.result();
    },
  };
}
