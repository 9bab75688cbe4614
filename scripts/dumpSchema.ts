// `node scripts/run.mjs scripts/dumpSchema.ts`: renews test/database/schema.sql from the migrations, after a change
// that was meant. Runs on the stack that TEST_STACK names, or on a new one.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { createTestStack } from '../stack/testStack.ts';
import { outboxDatabase } from '../test/support/database.ts';
import { dumpSchema } from '../test/support/schemaDump.ts';
import { stackEnvironment } from '../test/support/stack.ts';

const golden = path.join(import.meta.dirname, '..', 'test', 'database', 'schema.sql');

async function renew(): Promise<void> {
  await using database = await outboxDatabase(2);
  writeFileSync(golden, await dumpSchema(database.client));
  console.error(`written: ${path.relative(process.cwd(), golden)}`);
}

if (process.env.TEST_STACK) {
  await renew();
} else {
  await using stack = await createTestStack();
  await stack.start(['postgres']);
  Object.assign(process.env, stackEnvironment(stack));
  await renew();
}
