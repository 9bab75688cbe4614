import { ConfigError, readConfig } from './config.ts';
import { migrate } from './database/migrate.ts';
import { describeError } from './domain/errors.ts';

// `npm run migrate`: the same migrations that a worker runs at its start, for those who give that right to another role.
try {
  const applied = await migrate(readConfig(process.env).databaseUrl);
  console.log(applied.length > 0 ? `applied ${applied.join(', ')}` : 'the schema is up to date');
} catch (error) {
  console.error(error instanceof ConfigError ? error.message : describeError(error));
  process.exitCode = error instanceof ConfigError ? 2 : 1;
}
