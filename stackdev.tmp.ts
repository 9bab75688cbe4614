import { writeFileSync } from 'node:fs';
import { createTestStack } from './stack/testStack.ts';
import { stackEnvironment } from './test/support/stack.ts';
const stack = await createTestStack((line) => console.error(line));
await stack.start();
const env = { ...stackEnvironment(stack), ...stack.env() };
writeFileSync('/tmp/stackdev.env', Object.entries(env).map(([k, v]) => `export ${k}='${v}'`).join('\n') + '\n');
console.log('up');
setInterval(() => {}, 1e6);
