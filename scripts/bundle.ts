import path from 'node:path';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';

/** The code of all workflows as one script for the sandbox. Fails on imports that a workflow must not have. */
export async function bundleWorkflows(): Promise<string> {
  const workflowsPath = path.join(import.meta.dirname, '..', 'src', 'workflows', 'index.ts');
  const { code } = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') });
  return code;
}
