// Which uploads get a workflow, and when.
import type { Client } from '@temporalio/client';
import type pg from 'pg';
import { OrchestratorClient } from './client.ts';
import { openUploads, staleUploads } from './database/openUploads.ts';

/** So many starts at a time. */
const STARTS = 10;

export interface UploadStarts {
  pool: pg.Pool;
  temporal: Client;
  /** Of the workflows. */
  taskQueue: string;
}

/** Starts the workflows of those among the uploads that are not where they belong yet, as far as they do not run. */
export async function startUploads({ pool, ...to }: UploadStarts, idempotencyKeys: string[]): Promise<void> {
  await start(to, await openUploads(pool, idempotencyKeys));
}

/**
 * Starts the workflows of uploads of which nothing was heard for half an hour, longer than any wait: somebody has
 * terminated them, or Temporal has lost its database. Some at a time; those that run are found.
 */
export async function resumeUploads({ pool, ...to }: UploadStarts): Promise<void> {
  await start(to, await staleUploads(pool));
}

async function start(
  { temporal, taskQueue }: Omit<UploadStarts, 'pool'>,
  uploads: { idempotencyKey: string; filename: string }[],
): Promise<void> {
  const client = new OrchestratorClient(temporal, taskQueue);
  const queue = uploads.values();
  const startNext = async () => {
    for (const { idempotencyKey, filename } of queue) await client.startUpload(idempotencyKey, filename);
  };
  await Promise.all(Array.from({ length: STARTS }, startNext));
}
