// Which uploads get a workflow, and when.
import { type Client, isGrpcServiceError, ServiceError } from '@temporalio/client';
import { NativeConnection } from '@temporalio/worker';
import type pg from 'pg';
import { OrchestratorClient } from './client.ts';
import { openUploads, staleUploads } from './database/openUploads.ts';
import { withClient } from './database/postgres.ts';
import { markFailed } from './database/uploadOutcomes.ts';
import { describeError } from './domain/errors.ts';

/** So many starts at a time. */
const STARTS = 10;
/** A Temporal that does not answer for so long is away. */
const START_WITHIN_MS = 15_000;

export interface UploadStarts {
  pool: pg.Pool;
  /** On the workers' own connection, one of them gets the first task of a workflow with the answer to its start. */
  temporal: Client;
  /** Of the workflows. */
  taskQueue: string;
}

/** Starts the workflows of those among the uploads that are not where they belong yet, as far as they do not run. */
export async function startUploads(starts: UploadStarts, idempotencyKeys: string[]): Promise<void> {
  await start(starts, await openUploads(starts.pool, idempotencyKeys));
}

/**
 * Starts the workflows of uploads of which nothing was heard for half an hour, longer than any wait: somebody has
 * terminated them, or Temporal has lost its database. Some at a time; those that run are found.
 */
export async function resumeUploads(starts: UploadStarts): Promise<void> {
  await start(starts, await staleUploads(starts.pool));
}

async function start(
  { pool, temporal, taskQueue }: UploadStarts,
  uploads: { idempotencyKey: string; filename: string }[],
): Promise<void> {
  const client = new OrchestratorClient(temporal, taskQueue);
  const eagerly = temporal.connection instanceof NativeConnection;
  const queue = uploads.values();
  const startNext = async () => {
    for (const { idempotencyKey, filename } of queue) {
      const starting = temporal.withDeadline(Date.now() + START_WITHIN_MS, () =>
        client.startUpload(idempotencyKey, filename, { eagerly }),
      );
      await starting.catch(async (error: unknown) => {
        if (!isInvalid(error)) throw error;
        // It would be refused for ever, and must not stand in the way of the others.
        const failure = {
          code: 'upload_refused',
          reason: `Temporal refuses its workflow: ${describeError(error)}`,
        };
        await withClient(pool, (connection) => markFailed(connection, idempotencyKey, failure));
      });
    }
  };
  await Promise.all(Array.from({ length: STARTS }, startNext));
}

const isInvalid = (error: unknown): boolean =>
  error instanceof ServiceError && isGrpcServiceError(error.cause) && error.cause.code === INVALID_ARGUMENT;
/** Of gRPC. */
const INVALID_ARGUMENT = 3;
