import { type Ports, Stack } from '../../stack/stack.ts';

/** How test/run.ts tells the test files, each a process of its own, where the stack of this run is. */
export function stackEnvironment(stack: Stack): Record<string, string> {
  return { TEST_STACK: JSON.stringify({ directory: stack.directory, ports: stack.ports }) };
}

/** The stack of this run. Tests that stop or kill a service start it again before they end. */
export function testStack(): Stack {
  const { TEST_STACK } = process.env;
  if (!TEST_STACK) throw new Error('no stack: run tests by `npm test -- <file>`');
  const { directory, ports } = JSON.parse(TEST_STACK) as { directory: string; ports: Ports };
  return new Stack({ directory, ports, report: () => {} });
}
