import type { Workflow, WorkflowHandle } from '@temporalio/client';
import { eventually } from '../support/eventually.ts';

/** What a recorded history goes through: a workflow with activities that are steered. */
export interface Scenario {
  type: string;
  workflowId: string;
  args: unknown[];
  // biome-ignore lint/suspicious/noExplicitAny: whatever the workflow's activities take
  activities: Record<string, (...input: any[]) => Promise<unknown>>;
  /** Leads the workflow to where its recording may end. */
  drive(handle: WorkflowHandle<Workflow>): Promise<unknown>;
}

export const becomes = (handle: WorkflowHandle<Workflow>, state: string) =>
  eventually(state, async () => (await handle.query<{ state: string }>('status')).state === state);
