// Which backup tasks get a workflow.
import { type Client, WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import { type BackupTask, backupSummary, backupWorkflowId } from './domain/backups.ts';
import { backup } from './workflows/backups.ts';

/** Starts the workflows of these tasks; a key that had one before, however it ended, is left alone. */
export async function startBackups(
  temporal: Client,
  taskQueue: string,
  tasks: { task: BackupTask; idempotencyKey: string }[],
): Promise<void> {
  for (const { task, idempotencyKey } of tasks) {
    const started = temporal.workflow.start(backup, {
      workflowId: backupWorkflowId(idempotencyKey),
      taskQueue,
      args: [task],
      workflowIdReusePolicy: 'REJECT_DUPLICATE',
      staticSummary: backupSummary(task),
    });
    await started.catch((error: unknown) => {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    });
  }
}
