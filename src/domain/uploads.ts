// The words of uploads: what crosses the borders between workflow, activities, storage and their users.
import { type Digest, fitting } from './topicMessages.ts';

/** The places where an upload's bytes may be kept, best first. */
export const TIER_NAMES = ['s3', 'filesystem', 'redis'] as const;
export type TierName = (typeof TIER_NAMES)[number];

/** Where uploads come from by Kafka, and where their dead letters are replayed to. */
export const UPLOAD_TOPIC = 'upload.retry';
/** Where each copy that was made is told. */
export const RECEIPT_TOPIC = 'upload.receipts';

/** An upload as it was asked for; its bytes are elsewhere. */
export interface UploadRequest {
  filename: string;
  contentType: string | null;
  metadata: Record<string, unknown>;
  /** In bytes. */
  size: number;
  dataRef: string | null;
}

/** Where an upload's bytes are, and how safe they are there. */
export interface UploadReceipt {
  filename: string;
  tier: TierName;
  location: string;
  /** In bytes. */
  size: number;
  /** In hex. */
  sha256: string;
  durability: string;
  /** How often every tier gave a definite no, and the try that succeeded. */
  attempts: number;
  /** ISO 8601. */
  stored_at: string;
  promoted_at: string | null;
}

/**
 *                          a tier has it
 *   waiting ◀──▶ trying ─────────────────▶ stored                     (on the best tier: the end)
 *      │            │                         │ on a lower tier
 *      │            │ 5 times every           ▼
 *      │ cancelled  ▼ tier said no        promoting ─────▶ promoted    (on the best tier: the end)
 *      └────────▶ failed                      │ cancelled
 *                   │ replayed                ▼
 *                   └────▶ waiting          stored                    (stays on the lower tier)
 *
 * In Postgres an upload that is being tried is `waiting`, and one that was cancelled before it was stored is `cancelled`.
 */
export type UploadState = 'waiting' | 'trying' | 'stored' | 'promoting' | 'promoted' | 'failed';
/** As it stands in orchestrator.upload. */
export type UploadRowState = Exclude<UploadState, 'trying'> | 'cancelled';

/** `uploadRetry`'s answer to the query `status`. */
export interface UploadStatus {
  state: UploadState;
  attempts: number;
  last_error: string | null;
  /** Null until a tier has verified the bytes. */
  receipt: UploadReceipt | null;
}

/** An upload as its row says, without the bytes. */
export interface Upload extends UploadRequest {
  idempotencyKey: string;
  state: UploadRowState;
  /** Null until the bytes were read for the first time. */
  sha256: string | null;
  attempts: number;
  lastError: string | null;
  /** Of the copy, if there is one. */
  receipt: UploadReceipt | null;
  touchedTiers: TierName[];
}

/** So many times every tier must give a definite no; then the upload is a dead letter. */
export const MAX_UPLOAD_ATTEMPTS = 5;
/** Larger files travel by reference: with base64 and metadata this many bytes still fit into a Kafka record. */
export const MAX_INLINE_BYTES = 700_000;
/** Up to so many bytes an upload is stored at once, from memory, without an activity of its own. */
export const MAX_BYTES_AT_ONCE = 8 * 1024 * 1024;
/** How many uploads one worker carries at a time, and as many that are stored at once. */
export const MAX_UPLOADS = 8;

/** Seconds before the next try, after `rounds` (from 1) that stored nothing: 2, 4, 8 … up to five minutes. */
export const secondsToNextTry = (rounds: number): number => Math.min(300, 2 ** Math.min(rounds, 9));

/**
 * Seconds before the next try, after every tier has refused `attempts` times (from 1): a minute, doubled. A full disk or an
 * expired key passes, so the last attempt comes a quarter of an hour after the first.
 */
export const secondsAfterRefusal = (attempts: number): number => 60 * 2 ** (attempts - 1);

/** Seconds before the next look at the better tiers, after `rounds` (from 0) looks: a minute, doubled up to fifteen. */
export const secondsToNextPromotion = (rounds: number): number =>
  Math.min(900, 60 * 2 ** Math.min(rounds, 4));

const WORKFLOW_PREFIX = 'upload/';
export const uploadWorkflowId = (idempotencyKey: string): string => `${WORKFLOW_PREFIX}${idempotencyKey}`;
/** Undefined for an id that is no upload's. */
export const keyOfWorkflow = (workflowId: string): string | undefined =>
  workflowId.startsWith(WORKFLOW_PREFIX) ? workflowId.slice(WORKFLOW_PREFIX.length) : undefined;

/** For the list of workflows, where 400 bytes of it are kept. */
export const uploadSummary = (filename: string): string =>
  `upload of ${[...filename].slice(0, 60).join('')}: stored, verified, and brought to the best tier`;

/** `upload:{filename}:{sha256[:16]}`, as the platform has it. */
export const uploadKey = (filename: string, sha256: string, digest: Digest): string =>
  fitting(`upload:${filename}:${sha256.slice(0, 16)}`, digest);

/** A reference to bytes that the upload's own row holds, as its dead letter has it. */
export const ownBytes = (idempotencyKey: string): string => `upload:${idempotencyKey}`;
export const refersToOwnBytes = (dataRef: string | null): boolean => dataRef?.startsWith('upload:') ?? false;

/** Thousands of uploads may begin at once: on a queue of their own they do not stand in the way of the relays' workflows. */
export const uploadTaskQueue = (taskQueue: string): string => `${taskQueue}-upload`;
/** What carries bytes takes as long as large files take, and its slots are few. */
export const uploadBytesTaskQueue = (taskQueue: string): string => `${taskQueue}-upload-bytes`;

/** The tiers of `configured` above `tier`, best first. */
export const tiersAbove = (tier: TierName, configured: readonly TierName[]): TierName[] =>
  TIER_NAMES.slice(0, TIER_NAMES.indexOf(tier)).filter((name) => configured.includes(name));

/** The tiers of `touched` below `tier`: bytes there are no longer needed. */
export const tiersBelow = (tier: TierName, touched: readonly TierName[]): TierName[] =>
  TIER_NAMES.slice(TIER_NAMES.indexOf(tier) + 1).filter((name) => touched.includes(name));
