import { COLUMN_LENGTH, type Fields, isObject, isText, kindOf } from './consumedRecord.ts';
import { isStorable } from './storable.ts';
import { fitsWorkflowId, understand, WORKFLOW_KEY_BYTES } from './topicMessages.ts';
import { keyOfWorkflow, UPLOAD_TOPIC, type UploadRequest } from './uploads.ts';

// What comes to uploadRetry from outside: anybody can start it.

/** What a former run of the same upload leaves to the next one. */
export interface UploadProgress {
  /** Rounds that stored nothing, or looks at the better tiers. */
  rounds: number;
  lastError: string | null;
}

/**
 * The payload of `upload.retry` without bytes, by hand; or the key of an upload that orchestrator.upload has already, as
 * the consumer starts it, or to start a cancelled or failed one again.
 */
export type UploadRetryInput =
  | {
      filename: string;
      content_type?: string | null;
      metadata?: Record<string, unknown> | null;
      size: number;
      data_ref: string;
      data_b64?: null;
    }
  | {
      idempotency_key: string;
      progress?: UploadProgress;
      /** Leaves for a new run after this many waits, for tests; by default after 200. */
      waitLimit?: number;
    };

/** What to do: null `request` for an upload that has a row already. */
export interface UploadStart {
  key: string;
  request: UploadRequest | null;
  progress: UploadProgress;
  waitLimit: number;
}

const WAIT_LIMIT = 200;

/** What the input asks for, or one sentence for each fault. */
export function readUploadInput(input: unknown, workflowId: string): UploadStart | { faults: string[] } {
  const key = keyOfWorkflow(workflowId);
  if (key === undefined || !isText(key, COLUMN_LENGTH) || !isStorable(key) || !fitsWorkflowId(key)) {
    return {
      faults: [
        `the workflow id of an upload is upload/ and its idempotency key of 1 to ${COLUMN_LENGTH} characters and at most ${WORKFLOW_KEY_BYTES} bytes: got ${JSON.stringify(workflowId)}`,
      ],
    };
  }
  if (!isObject(input))
    return { faults: [`uploadRetry takes the payload of ${UPLOAD_TOPIC}: got ${kindOf(input)}`] };
  return 'idempotency_key' in input ? again(key, input) : byHand(key, input);
}

const FIRST: UploadProgress = { rounds: 0, lastError: null };

function again(key: string, input: Fields): UploadStart | { faults: string[] } {
  const { idempotency_key, progress = FIRST, waitLimit = WAIT_LIMIT, ...others } = input;
  const faults = Object.keys(others).map(
    (name) => `${name} is no field beside idempotency_key: the upload is known by its key`,
  );
  if (idempotency_key !== key)
    faults.push(
      `idempotency_key must be that of the workflow id, ${JSON.stringify(key)}: got ${JSON.stringify(idempotency_key)}`,
    );
  if (!isProgress(progress))
    faults.push(
      `progress is what an earlier run left, for a start leave it out: got ${JSON.stringify(progress)}`,
    );
  if (!Number.isInteger(waitLimit) || Number(waitLimit) < 1)
    faults.push(`waitLimit must be a whole number from 1 on: got ${JSON.stringify(waitLimit)}`);
  if (faults.length > 0) return { faults };
  return { key, request: null, progress: progress as UploadProgress, waitLimit: waitLimit as number };
}

function isProgress(value: unknown): value is UploadProgress {
  if (!isObject(value)) return false;
  const { rounds, lastError } = value;
  return (
    Number.isInteger(rounds) && Number(rounds) >= 0 && (lastError === null || typeof lastError === 'string')
  );
}

/** The rules are those of the topic, except that a workflow takes no bytes. */
function byHand(key: string, input: Fields): UploadStart | { faults: string[] } {
  if (input.data_b64 != null) {
    return {
      faults: [
        `data_b64 would stay in Temporal's history, which is no place for bytes: send the message to ${UPLOAD_TOPIC}, or put the file into the spool and give its data_ref`,
      ],
    };
  }
  const understood = understand(
    UPLOAD_TOPIC,
    {
      value: encoded(JSON.stringify(input)),
      key: null,
      headers: { idempotency_key: encoded(key) },
      ...PLACE,
    },
    () => key,
  );
  if ('fault' in understood) return { faults: [understood.fault] };
  const { dataBase64: _, ...request } = understood.ok;
  return { key, request, progress: FIRST, waitLimit: WAIT_LIMIT };
}

const PLACE = { topic: UPLOAD_TOPIC, partition: 0, offset: '0', timestamp: 0 };
const encoded = (text: string): Uint8Array => new TextEncoder().encode(text);
